"""From scores of images against classes to the paper's numbers, and to the match of concepts and classes it leaves out.

Shapes: N images, C classes, K concepts. An image's class is the one it scores best for.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment


def accuracy(scores: np.ndarray, threshold: float) -> float:
    """The share of images whose best score reaches `threshold`, as published: scores (N, C) -> [0, 1].

        accuracy = #{n : max_c s[n, c] >= threshold} / N

    It asks whether a sample shows *some* class, not whether concepts and classes correspond: see `matched_accuracy`.
    """
    return float((scores.max(axis=1) >= threshold).mean())


def kl_from_uniform(scores: np.ndarray, smoothing: float = 0.0) -> float:
    """How far the images are from covering all classes alike, in nats, as published: scores (N, C) -> [0, inf].

        q[c] = (#{n : argmax_c' s[n, c'] = c} + smoothing) / Z,  Z such that q sums to 1
        KL(uniform || q) = sum_c 1/C log((1/C) / q[c])

    Every image counts, those below the threshold too. Published with smoothing 1e-8 for ResNet-50 and none for CLIP,
    where a class without images makes it infinite.
    """
    classes = scores.shape[1]
    shares = np.bincount(scores.argmax(axis=1), minlength=classes) + smoothing
    shares = shares / shares.sum()
    return math.inf if (shares == 0).any() else max(0.0, float(-np.log(shares * classes).mean()))


def class_counts(scores: np.ndarray, concepts: np.ndarray, count: int) -> np.ndarray:
    """How many images of each concept show each class: scores (N, C), concepts (N,) in 0..count-1 -> (K, C)."""
    counts = np.zeros((count, scores.shape[1]), dtype=int)
    np.add.at(counts, (concepts, scores.argmax(axis=1)), 1)
    return counts


def match_one_to_one(counts: np.ndarray) -> dict[int, int]:
    """The pairs concept -> class, none used twice, that agree with most images (the Hungarian method): counts (K, C).

    With more concepts than classes, or fewer, the rest stay without a partner.
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True)}


def matched_accuracy(counts: np.ndarray) -> float:
    """The share of images that show the class their concept is matched to: counts (K, C) -> [0, 1]."""
    return float(sum(counts[pair] for pair in match_one_to_one(counts).items()) / counts.sum())
