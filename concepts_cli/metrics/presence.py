"""Which of a run's concepts are seen in a picture.

The built-in reader looks for the word by which a concept's samples differ most from the others'. For other models, CLIP
compares the picture with a concept's own samples; the threshold is what most of those reach.

Shapes: N pictures, K concepts, E features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.recipe import BUILT_IN

REACHED = 0.95  # the share of a concept's own samples that reach its threshold


@dataclass(frozen=True)
class Presence:
    """A judge of pictures: its word for each concept, its scores (N, K), and the thresholds (K,) from which a concept
    counts as seen.
    """

    scorer: str
    caveat: str | None
    words: tuple[str | None, ...]
    thresholds: np.ndarray
    score: Callable[[Sequence[Path]], np.ndarray]

    def seen(self, paths: Sequence[Path]) -> np.ndarray:
        """Which concepts each picture shows: (N, K) bool."""
        return self.score(paths) >= self.thresholds


def own_words(means: np.ndarray) -> np.ndarray:
    """The word that sets each concept apart from the others: mean scores (K, W) -> (K,).

    What all samples show, such as daylight, sets no concept apart.
    """
    if len(means) == 1:
        return means.argmax(axis=1)
    others = (means.sum(axis=0) - means) / (len(means) - 1)
    return (means - others).argmax(axis=1)


def concept_presence(inputs: MetricInputs) -> Presence:
    """The judge of a run's concepts, made from its samples."""
    samples = inputs.samples
    order = [samples.concepts.index(name) for name in inputs.concepts]
    groups = [samples.owners == k for k in order]
    if inputs.run.recipe.model == BUILT_IN:
        reader = inputs.resnet
        features = inputs.features("resnet")
        words = list(inputs.words)
        means = np.stack([reader.score(features[group], words).mean(axis=0) for group in groups])  # (K, words)
        chosen = [words[k] for k in own_words(means)]
        limits = np.full(len(chosen), reader.threshold)
        return Presence(
            reader.name,
            reader.caveat,
            tuple(chosen),
            limits,
            lambda paths: reader.score(reader.features(paths), chosen),
        )
    clip, features = inputs.clip, inputs.features("clip")
    typical = np.stack([features[group].mean(axis=0) for group in groups])
    typical /= np.linalg.norm(typical, axis=1, keepdims=True)
    own = [features[group] @ typical[k] for k, group in enumerate(groups)]
    limits = np.array([np.quantile(similarities, 1 - REACHED) for similarities in own])
    no_words = (None,) * len(groups)
    return Presence(clip.name, clip.caveat, no_words, limits, lambda paths: clip.features(paths) @ typical.T)
