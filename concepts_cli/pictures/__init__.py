"""Which pictures to make, which exist already, and their files. May import core, runs, scorers and below."""
