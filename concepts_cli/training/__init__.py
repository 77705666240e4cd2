"""What a training needs before, between and after its steps. May import core, runs, scorers and below."""
