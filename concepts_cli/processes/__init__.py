"""This process: its signals and streams, and those that work with it. May import errors and output."""
