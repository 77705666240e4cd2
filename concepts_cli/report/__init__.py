"""A run as one HTML page. May import metrics and pictures, and below."""
