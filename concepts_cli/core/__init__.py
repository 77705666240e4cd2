"""The method: composed scores, the loop that discovers, sampling, and attention maps."""
