"""A stand-in for scorers that reads colours, and pictures of one colour: what the arithmetic must say is known."""

import numpy as np
from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError

COLOURS = {"cat": 0, "dog": 1, "fox": 2}  # a class is a channel


class ColourScorer:
    """An image's score for a class is its channel's mean in [0, 1]; its features are the three means."""

    caveat = None

    def __init__(self, name, threshold, smoothing):
        self.name, self.threshold, self.smoothing = name, threshold, smoothing

    def features(self, paths):
        return np.array([np.asarray(open_image(path)).mean(axis=(0, 1)) / 255 for path in paths])

    def score(self, features, class_names):
        return features[:, [COLOURS[name] for name in class_names]]

    def check(self, names):
        if strange := [name for name in names if name not in COLOURS]:
            raise UcdError(f"no colour for {strange[0]}")


def paint(folder, shares):
    """{concept: [(red, green, blue) in [0, 1], …]} as PNGs, a sub-folder a concept."""
    for concept, images in shares.items():
        (folder / concept).mkdir(parents=True)
        for n, share in enumerate(images):
            colour = tuple(round(255 * s) for s in share)
            Image.new("RGB", (8, 8), colour).save(folder / concept / f"{n:05d}.png")
    return folder
