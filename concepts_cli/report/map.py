"""A map of images and concepts: those that are near each other have similar weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 4  # points that can be laid out
PERPLEXITY = 12  # about how many neighbours count for a point
MARGIN = 7  # percent, at each side


@dataclass(frozen=True)
class Map:
    """Where images (N) and concepts (K) are: shares of the width and the height, in percent."""

    images: list[tuple[float, float]]
    concepts: list[tuple[float, float]]


def weight_map(weights: np.ndarray) -> Map | None:
    """Lay out images by their weights (N, K), and each concept where an image of it alone would be; None for too few.

    t-SNE (van der Maaten and Hinton, JMLR 2008) by scikit-learn, of each image's shares of its weights. The same
    weights are the same map.
    """
    shares = weights / np.maximum(np.abs(weights).sum(axis=1, keepdims=True), np.finfo(weights.dtype).tiny)
    points = np.concatenate([shares, np.eye(weights.shape[1], dtype=weights.dtype)])
    if len(points) < FEWEST or len(np.unique(points, axis=0)) < FEWEST:
        return None
    from sklearn.manifold import TSNE  # takes a second

    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    low, high = places.min(axis=0), places.max(axis=0)
    shown = MARGIN + (100 - 2 * MARGIN) * (places - low) / np.maximum(high - low, 1e-6)
    pairs = [(round(float(x), 1), round(float(y), 1)) for x, y in shown]
    return Map(pairs[: len(weights)], pairs[len(weights) :])
