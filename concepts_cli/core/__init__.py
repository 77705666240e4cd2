"""The method and nothing else: scores, the loop that discovers, encoding, sampling, attention maps.

May import models, recipe, data and errors; knows nothing of run folders, processes and output.
"""
