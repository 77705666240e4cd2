"""A run as one HTML page: what is on it (`page.py`), its pictures (`inline.py`), its curve (`chart.py`), its looks."""
