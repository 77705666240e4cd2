"""A run as one HTML page: what is on it (`page.py`), its pictures (`pictures.py`), and how it looks (`page.html`)."""
