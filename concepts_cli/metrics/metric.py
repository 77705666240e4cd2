"""What every metric offers, and the table of concepts that most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from concepts_cli.metrics.figures import MEASURES, Table
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.scores import match_one_to_one

Figure = tuple[str, str, float | None, Sequence[float | None] | None]  # title, measure, value, interval


class Metric(ABC):
    """A measure of a run. `name` is what `--metric` and evaluation.json call it."""

    name: str
    is_scored = False  # whether it scores samples against class names, with a threshold
    compared: str | None = None  # metrics with the same word here are columns of one table of measures
    title: str | None = None  # of its figures in the report
    caption = "Images of each concept by class; matched pairs on the diagonal"  # of the matrix there

    @abstractmethod
    def check(self, inputs: MetricInputs) -> None:
        """Raise UcdError for what is missing, before any long work."""

    @abstractmethod
    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        """The metric's entry in evaluation.json: the `result` that the methods below get."""

    def tables(self, result: dict[str, Any]) -> list[Table]:
        """Tables of its own."""
        return []

    def note(self, result: dict[str, Any]) -> str:
        """What its figures are based on."""
        return f"{result['images']} images, {result['scorer']}"

    def figures(self, result: dict[str, Any]) -> list[Figure]:
        """Its measures with their titles and intervals."""
        intervals = result.get("intervals", {})
        return [
            (title, measure, result[measure], intervals.get(measure))
            for measure, title in MEASURES.items()
            if measure in result and (result[measure] is not None or measure.startswith("kl"))
        ]


def describe_concepts(
    concepts: Sequence[str], classes: Sequence[str], counts: np.ndarray, sizes: np.ndarray
) -> dict[str, dict[str, Any]]:
    """What each concept shows: its most common class, that class's share (purity), and the class it is matched to.

    Shapes: counts (K, C) images of each class, sizes (K,) images in all.
    """
    match = match_one_to_one(counts)
    return {
        name: {
            "images": size,
            "best_class": classes[row.argmax()] if row.any() else None,
            "share": row.max() / size if row.any() else None,
            "matched_class": classes[match[k]] if k in match else None,
            "counts": dict(zip(classes, row, strict=True)),
        }
        for k, (name, row, size) in enumerate(zip(concepts, counts, sizes, strict=True))
    }
