"""Evaluation results as the page shows them: bars, confusion matrices, names of concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from concepts_cli.metrics.evaluation import read_metrics
from concepts_cli.metrics.figures import SHARES, figure, interval
from concepts_cli.metrics.registry import METRICS
from concepts_cli.pictures.commands import command
from concepts_cli.runs.run import Run


@dataclass(frozen=True)
class Cell:
    """A number, and the strength of its colour from 0 to 100."""

    text: str
    strength: int
    value: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A measure as text and, if it is a share, as a bar with its interval in percent."""

    title: str
    text: str
    span: str
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Named:
    """A guess at what a concept shows, its problems, and similar words with their similarities."""

    guess: str
    wrong: list[str]
    seen: list[tuple[str, str]]
    neighbours: list[tuple[str, str]]


@dataclass
class Measures:
    """The figures in a run's evaluation.json. `hues` maps each concept's name to its hue."""

    run: Run
    hues: dict[str, int]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics in evaluation.json that the page can show. Raises UcdError if the file is damaged."""
        return {name: result for name, result in read_metrics(self.run).items() if self._can_be_shown(name, result)}

    def _can_be_shown(self, name: str, result: dict[str, Any]) -> bool:
        """Whether the result has the form that this version writes."""
        try:
            _ = self._panels({name: result})  # raises here if anything is missing
            if name == "naming":
                _ = str(result["advice"]), [describe_name(concept) for concept in result["concepts"].values()]
            return True
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return False

    def share(self, *keys: str) -> str | None:
        """A share in percent, such as that of ("clip", "accuracy"); None if it is 0, or was not measured."""
        value: Any = self.metrics
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return f"{100 * value:.0f}%" if value and isinstance(value, (int, float)) else None

    @property
    def advice(self) -> str | None:
        return self.metrics.get("naming", {}).get("advice")

    @cached_property
    def figures(self) -> list[dict[str, Any]]:
        """One panel per metric: its title, notes, bars and confusion matrix."""
        return self._panels(self.metrics)

    def _panels(self, metrics: dict[str, Any]) -> list[dict[str, Any]]:
        panels = []
        for name, result in metrics.items():
            if (metric := METRICS.get(name)) and metric.title:
                classes, confusion = self._confusion(result)
                caveat = f" Note: {result['caveat']}." if result.get("caveat") else ""
                panels.append(
                    {
                        "name": name,
                        "title": metric.title,
                        "notes": f"{metric.note(result)}. Whiskers are 95% intervals.{caveat}",
                        "bars": [_bar(*figure) for figure in metric.figures(result)],
                        "classes": classes,
                        "confusion": confusion,
                        "caption": metric.caption,
                    }
                )
        return panels

    @cached_property
    def missing_metrics(self) -> list[tuple[str, str]]:
        """Metrics not computed yet, each with its command."""
        return [(name, command(self.run, "evaluate", "--metric", name)) for name in METRICS if name not in self.metrics]

    def _confusion(self, result: dict[str, Any]) -> tuple[list[str], list[tuple[str, int | None, list[Cell]]]]:
        """The classes, and one row per concept; matched classes come first, so that matches are on the diagonal."""
        concepts = result["concepts"]
        if "matrix" in result:
            return list(concepts), [
                (name, self.hues.get(name), [_share_cell(share) for share in row])
                for name, row in zip(concepts, result["matrix"], strict=True)
            ]
        if "classes" not in result:
            return [], []
        matched = [concept["matched_class"] for concept in concepts.values() if concept["matched_class"]]
        classes = [*matched, *(name for name in result["classes"] if name not in matched)]
        rows = []
        for name, concept in concepts.items():
            counts = [concept["counts"][label] for label in classes]
            most = max(sum(counts), 1)
            hue = self.hues.get(name)
            rows.append((name, hue, [Cell(str(count), strength(count, most)) for count in counts]))
        return classes, rows


def _share_cell(share: float | None) -> Cell:
    """A share in percent; empty for none."""
    return Cell("", 0) if share is None else Cell(f"{100 * share:.0f}%", strength(share, 1))


def describe_name(concept: dict[str, Any]) -> Named:
    problems = ["dead"] * bool(concept["dead"]) + ["mixed"] * bool(concept["mixed"])
    seen, neighbours = (
        [(str(word["word"]), f"{word['similarity']:.2f}") for word in words[:3]]
        for words in (concept["seen"], concept["neighbours"])
    )
    return Named(
        str(concept["name"]), problems + [f"same as {other}" for other in concept["same_as"]], seen, neighbours
    )


def _bar(title: str, measure: str, value: float | None, bounds: Sequence[float | None] | None) -> Bar:
    text, span = figure(measure, value), interval(measure, bounds).strip()
    if measure not in SHARES or value is None:
        return Bar(title, text, span)
    if not span or not bounds:
        return Bar(title, text, span, 100 * value)
    low, high = (100 * bound for bound in bounds if bound is not None)  # ValueError if a damaged file has only one end
    return Bar(title, text, span, 100 * value, low, high)


def strength(value: float, most: float) -> int:
    """How strongly to colour a cell, from 0 to 100."""
    return round(100 * min(abs(float(value)) / most, 1.0))
