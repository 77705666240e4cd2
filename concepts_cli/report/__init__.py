"""A run as one HTML page. May import metrics and below."""
