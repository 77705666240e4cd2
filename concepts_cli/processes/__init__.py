"""Work in several processes: identify, start and stop them. May import errors and output."""
