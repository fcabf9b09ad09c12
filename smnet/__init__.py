"""What the scripts import."""
