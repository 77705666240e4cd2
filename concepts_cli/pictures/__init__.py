"""Which pictures to make, which are there already, and their files. May import core, runs, scorers and below."""
