"""A result as plain text and as one HTML page."""
