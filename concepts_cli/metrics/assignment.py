"""Do the weights sort the training images by their hidden classes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.metric import Metric, describe_concepts
from concepts_cli.metrics.scores import adjusted_rand_index, match_one_to_one, normalized_mutual_information


@dataclass(frozen=True)
class Assignment:
    """How each image's strongest concept agrees with its hidden classes.

    Concept k is the strongest in `sizes[k]` images, of which `counts[k, c]` are of class c. ARI and NMI compare
    partitions, so they exist only if every image has one class.
    """

    classes: tuple[str, ...]
    sizes: np.ndarray  # (K,)
    counts: np.ndarray  # (K, C)
    matched_accuracy: float
    ari: float | None
    nmi: float | None


def assign(weights: np.ndarray, labels: Sequence[Sequence[str]]) -> Assignment:
    """Compare the argmax of each row of `weights` (N, K) with N images' classes.

    Matched accuracy is the share of images whose strongest concept is matched to one of their classes, by the best
    one-to-one match (Hungarian). Of the adjusted Rand index (ARI) and of normalized mutual information (NMI) 1 is
    perfect, and chance gives an ARI of 0.
    """
    classes = tuple(sorted({label for image in labels for label in image}))
    strongest = weights.argmax(axis=1)
    counts = np.zeros((weights.shape[1], len(classes)), dtype=int)
    for concept, image in zip(strongest, labels, strict=True):
        for label in set(image):
            counts[concept, classes.index(label)] += 1
    right = sum(counts[pair] for pair in match_one_to_one(counts).items())
    ari = nmi = None
    if all(len(set(image)) == 1 for image in labels):
        ari, nmi = adjusted_rand_index(counts), normalized_mutual_information(counts)
    sizes = np.bincount(strongest, minlength=weights.shape[1])
    return Assignment(classes, sizes, counts, float(right / len(labels)), ari, nmi)


class AssignmentMetric(Metric):
    """How the strongest concepts of the training images agree with their labels."""

    name = "assignment"
    title = "Training images by their strongest concept"
    compared = "samples"

    def check(self, inputs: MetricInputs) -> None:
        _ = inputs.labels

    def note(self, result: dict[str, Any]) -> str:
        return f"{result['images']} images, by their weights, against their classes"

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        weights, labels = inputs.run.weights.float().numpy(), inputs.labels
        result = assign(weights, labels)

        def agreement(drawn: np.ndarray) -> dict[str, float]:
            resampled = assign(weights[drawn], [labels[i] for i in drawn])
            measures = {"matched_accuracy": resampled.matched_accuracy, "ari": resampled.ari, "nmi": resampled.nmi}
            return {
                name: value
                for name, value in measures.items()
                if value is not None and getattr(result, name) is not None
            }

        return {
            "scorer": "weights",
            "matched_accuracy": result.matched_accuracy,
            "ari": result.ari,
            "nmi": result.nmi,
            "intervals": arithmetic.intervals(agreement, [np.arange(len(labels))]),
            "images": len(labels),
            "classes": result.classes,
            "confusion": result.counts,
            "concepts": describe_concepts(inputs.concepts, result.classes, result.counts, result.sizes),
        }
