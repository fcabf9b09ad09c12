"""What the four train scripts share."""
