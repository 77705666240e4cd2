"""A run folder: reading it, writing it, finding it, and who follows it. May import models, recipe and data."""
