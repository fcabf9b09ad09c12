"""The page of demo.py: what it does with a picture, its examples, and its layout."""
