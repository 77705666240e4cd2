"""The method and nothing else: scores, the training loop, encoding, sampling, attention maps.

May import models, recipe, data and errors; knows nothing about run folders, processes or output.
"""
