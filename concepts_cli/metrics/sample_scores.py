"""Do the samples show the hidden classes? The paper's accuracy and KL (Table 1), and what they leave out."""

from __future__ import annotations

from typing import Any

import numpy as np

from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.metric import Metric, describe_concepts


class SampleScores(Metric):
    """The scores of a run's samples by one scorer, `clip` or `resnet`."""

    is_scored = True
    compared = "samples"

    def __init__(self, name: str, title: str, *, is_captioned: bool = False):
        """`is_captioned` is for a scorer that compares an image with a caption."""
        self.name, self.title, self.is_captioned = name, title, is_captioned

    def note(self, result: dict[str, Any]) -> str:
        return f"{super().note(result)}, threshold {result['threshold']:.3g}"

    def check(self, inputs: MetricInputs) -> None:
        inputs.scorer(self.name).check(inputs.scorer_names(self.name))

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        scorer, samples, names = inputs.scorer(self.name), inputs.samples, inputs.names
        limits = (inputs.threshold, getattr(inputs.settings, f"{self.name}_threshold"), scorer.threshold)
        threshold = next(limit for limit in limits if limit is not None)
        features = inputs.features(self.name)
        scores = scorer.score(features, inputs.scorer_names(self.name))  # (N, C)
        owners, smoothing = samples.owners, scorer.smoothing

        def counts(drawn: np.ndarray) -> np.ndarray:  # (K, C)
            return arithmetic.class_counts(scores[drawn], owners[drawn], len(samples.concepts))

        def measure(drawn: np.ndarray) -> dict[str, float]:
            counted = counts(drawn)
            measures = {
                "accuracy": arithmetic.accuracy(scores[drawn], threshold),
                "kl": arithmetic.kl_from_uniform(scores[drawn], smoothing),
                "kl_reverse": arithmetic.kl_to_uniform(scores[drawn], smoothing),
                "matched_accuracy": arithmetic.matched_accuracy(counted),
                "purity": arithmetic.purity(counted),
            }
            return measures if own is None else measures | {"clip_score": arithmetic.clip_score(own[drawn])}

        whole, own = np.arange(len(scores)), None
        counted = counts(whole)
        concepts = describe_concepts(samples.concepts, names, counted, counted.sum(axis=1))
        spreads = [arithmetic.diversity(features[owners == k]) for k in range(len(concepts))]
        for concept, spread in zip(concepts.values(), spreads, strict=True):
            concept["diversity"] = spread
        if self.is_captioned:  # against the caption of the class that each concept stands for
            shown = [concept["matched_class"] or concept["best_class"] for concept in concepts.values()]
            own = scores[np.arange(len(scores)), [names.index(shown[k]) for k in owners]]
            for k, concept in enumerate(concepts.values()):
                concept["clip_score"] = arithmetic.clip_score(own[owners == k])
        known = [spread for spread in spreads if spread is not None]
        return {
            "scorer": scorer.name,
            "caveat": scorer.caveat,
            "threshold": threshold,
            **measure(whole),
            "diversity": float(np.mean(known)) if known else None,
            "intervals": arithmetic.intervals(measure, [(owners == k).nonzero()[0] for k in range(len(concepts))]),
            "samples": samples.folder,
            "images": len(samples.paths),
            "classes": names,
            "confusion": counted,
            "concepts": concepts,
        }
