"""The method and nothing else: scores, the training loop, encoding, sampling, attention maps.

May import models, recipe, data and errors; knows nothing about run folders, processes or output.
"""

# Defaults of encoding, here so that the command line can show them without importing torch.
STEPS = 16  # draws per image
ROWS = 48  # rows per model call; each draw uses K + 1
