"""The method and nothing else: scores, the loop that discovers, encoding, sampling, attention maps.

May import models, recipe and data; knows nothing of run folders, processes and output.
"""

# Defaults of encoding, here so that the command line can show them without importing torch.
STEPS = 16  # draws per image
ROWS = 48  # per call of the model; a draw has K + 1
