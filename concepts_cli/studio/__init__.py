"""`ucd studio`: a page on this machine on which runs are played with. Sits on the Python interface alone."""
