"""From scores of images against classes to the paper's measures, and to others that they leave out.

Shapes: N images, C classes, K concepts, E features. An image's class is the one with its best score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

RESAMPLES = 1000
CONFIDENCE = 0.95


def accuracy(scores: np.ndarray, threshold: float) -> float:
    """The share of images whose best score reaches `threshold`, as published: scores (N, C) -> [0, 1].

        accuracy = #{n : max_c s[n, c] >= threshold} / N

    It asks whether a sample shows *some* class, not whether concepts and classes correspond: see `matched_accuracy`.
    """
    return float((scores.max(axis=1) >= threshold).mean())


def kl_from_uniform(scores: np.ndarray, smoothing: float = 0.0) -> float:
    """How far the images are from showing all classes equally, in nats, as published: scores (N, C) -> [0, inf].

        q[c] = (#{n : argmax_c' s[n, c'] = c} + smoothing) / Z,  Z such that q sums to 1
        KL(uniform || q) = sum_c 1/C log((1/C) / q[c])

    Every image counts, even below the threshold. Published with smoothing 1e-8 for ResNet-50 and none for CLIP,
    where a class without images makes it infinite.
    """
    shares = _class_shares(scores, smoothing)
    return math.inf if (shares == 0).any() else max(0.0, float(-np.log(shares * len(shares)).mean()))


def kl_to_uniform(scores: np.ndarray, smoothing: float = 0.0) -> float:
    """The reverse direction, which stays finite if classes are missing: scores (N, C) -> [0, log C], in nats.

    KL(q || uniform) = sum_c q[c] log(q[c] / (1/C))
    """
    shares = _class_shares(scores, smoothing)
    held = shares[shares > 0]
    return max(0.0, float((held * np.log(held * len(shares))).sum()))


def _class_shares(scores: np.ndarray, smoothing: float) -> np.ndarray:
    counts = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]) + smoothing
    return counts / counts.sum()


def class_counts(scores: np.ndarray, concepts: np.ndarray, count: int) -> np.ndarray:
    """How many images of each concept show each class: scores (N, C), concepts (N,) in 0..count-1 -> (K, C)."""
    counts = np.zeros((count, scores.shape[1]), dtype=int)
    np.add.at(counts, (concepts, scores.argmax(axis=1)), 1)
    return counts


def match_one_to_one(counts: np.ndarray) -> dict[int, int]:
    """The one-to-one match of concepts to classes that agrees with most images (the Hungarian method): counts (K, C).

    With more concepts than classes, or fewer, the rest stay unmatched.
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True)}


def matched_accuracy(counts: np.ndarray) -> float:
    """The share of images that show the class their concept is matched to: counts (K, C) -> [0, 1]."""
    return float(sum(counts[pair] for pair in match_one_to_one(counts).items()) / counts.sum())


def purity(counts: np.ndarray) -> float:
    """The share of images that show their concept's most common class, which concepts may share: counts (K, C)."""
    return float(counts.max(axis=1).sum() / counts.sum())


def adjusted_rand_index(counts: np.ndarray) -> float:
    """How far two partitions of N images agree on pairs, beyond chance: counts (K, C) -> [-0.5, 1].

    (Hubert & Arabie, 1985.) scikit-learn's from labels is the same, and far too slow for a thousand resamples.
    """
    together, rows, columns = (
        float((sizes * (sizes - 1)).sum()) for sizes in (counts, counts.sum(axis=1), counts.sum(axis=0))
    )
    if together == rows == columns:
        return 1.0
    by_chance = rows * columns / float(counts.sum() * (counts.sum() - 1))
    return (together - by_chance) / ((rows + columns) / 2 - by_chance)


def normalized_mutual_information(counts: np.ndarray) -> float:
    """What two partitions of N images say of each other, as a share of their mean entropy: counts (K, C) -> [0, 1]."""
    both, rows, columns = (_entropy(part) for part in (counts, counts.sum(axis=1), counts.sum(axis=0)))
    mean = (rows + columns) / 2
    return 1.0 if mean == 0 else min(1.0, max(0.0, (rows + columns - both) / mean))


def _entropy(counts: np.ndarray) -> float:
    """Of the shares of the counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def clip_score(similarities: np.ndarray) -> float:
    """Mean of 100 max(cosine, 0) of images with their captions (Hessel et al., 2021, as torchmetrics scales it)."""
    return float(100 * similarities.clip(min=0).mean())


def diversity(features: np.ndarray) -> float | None:
    """Mean cosine distance between different images: features (N, E) -> [0, 2]; None for fewer than two."""
    count = len(features)
    if count < 2:
        return None
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return float(1 - ((unit @ unit.T).sum() - count) / (count * (count - 1)))


def intervals(
    measure: Callable[[np.ndarray], dict[str, float]], groups: Sequence[np.ndarray], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% percentile bootstrap intervals of `measure`, a function of image indices.

    `groups` are the indices of each concept's images. Each group is resampled to its own size, since the number of
    samples per concept is not random. Empty if a group has fewer than two.
    """
    groups = [group for group in groups if len(group)]
    if min(map(len, groups)) < 2:
        return {}
    rng = np.random.default_rng(seed)
    drawn = [measure(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    bounds = {}
    for name in drawn[0]:
        values = [resample[name] for resample in drawn]
        low, high = np.quantile(values, tail, method="lower"), np.quantile(values, 1 - tail, method="higher")
        bounds[name] = (float(low), float(high))  # no interpolation: values may be infinite
    return bounds
