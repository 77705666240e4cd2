"""Images: found, read and remembered. May import errors and output."""
