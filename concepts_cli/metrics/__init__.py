"""How well concepts were discovered, measured: a scorer a file, and the arithmetic on their scores."""
