"""Users' files: read with all that they hold, and written again as they came."""
