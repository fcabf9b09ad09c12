"""What the scripts import: nothing here is typed by users."""
