"""A run as one HTML page. May import metrics, pictures and everything below them."""
