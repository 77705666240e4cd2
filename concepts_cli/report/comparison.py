"""Several runs on one page: what differs, what they measured, and their concepts side by side."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from concepts_cli.metrics.figures import SHARES, figure, interval
from concepts_cli.metrics.registry import METRICS
from concepts_cli.metrics.scores import match_one_to_one
from concepts_cli.recipe.writing import yaml_scalar
from concepts_cli.report.chart import Chart, loss_chart
from concepts_cli.report.inline import Gallery
from concepts_cli.report.page import Page
from concepts_cli.report.rendering import render
from concepts_cli.runs.run import Run

LIKE = 0.3  # the least similarity of two concepts that are shown beside each other


@dataclass(frozen=True)
class Row:
    """A measure or a setting of every run; `best` are the runs with the highest share."""

    title: str
    cells: list[str]
    best: set[int] = field(default_factory=set)


@dataclass
class Comparison:
    """Runs, prepared for the template. Concepts are compared with those of the first run."""

    runs: Sequence[Run]
    gallery: Gallery = field(default_factory=Gallery)

    def render(self) -> str:
        """Render one self-contained HTML document."""
        title = f"{' and '.join(page.run.name for page in self.pages)}, compared"
        return render("compare.html", self, title)

    @cached_property
    def pages(self) -> list[Page]:
        return [Page(run, self.gallery) for run in self.runs]

    @cached_property
    def hues(self) -> list[int]:
        """One hue per run."""
        return [round(262 + 137.508 * n) % 360 for n in range(len(self.runs))]

    @cached_property
    def command(self) -> str:
        return shlex.join(["ucd", "report", *(page.path for page in self.pages)])

    @cached_property
    def charts(self) -> list[Chart | None]:
        """The loss of each run, on the same axes."""
        every = [point for page in self.pages for point in page.losses]
        return [loss_chart(page.losses, every) for page in self.pages]

    @cached_property
    def settings(self) -> list[Row]:
        """The settings in which the runs differ."""
        flat = [_leaves(page.recipe) for page in self.pages]
        rows = [Row(key, [yaml_scalar(values.get(key)) for values in flat]) for key in flat[0]]
        return [row for row in rows if len(set(row.cells)) > 1 and row.title != "name"]

    @cached_property
    def measures(self) -> list[tuple[str, list[Row]]]:
        """The measures by metric, where a run has any."""
        tables = []
        for name, metric in METRICS.items():
            results = [page.measures.metrics.get(name) for page in self.pages]
            figures = [
                {measure: (title, value, bounds) for title, measure, value, bounds in metric.figures(result)}
                if result
                else {}
                for result in results
            ]
            rows = [
                _measure_row(measure, [of_run.get(measure) for of_run in figures])
                for measure in dict.fromkeys(key for of_run in figures for key in of_run)
            ]
            if rows:
                tables.append((metric.title or name, rows))
        return tables

    @cached_property
    def concepts(self) -> list[list[dict[str, Any] | None]]:
        """A row per concept of the first run, with the most similar concept of every other run; then those left."""
        first, *others = self.pages
        matches = [_matches(first, other) for other in others]
        rows: list[list[dict[str, Any] | None]] = []
        for k, card in enumerate(first.concepts):
            rows.append([card, *(_card(page, match.get(k)) for page, match in zip(others, matches, strict=True))])
        for place, (page, match) in enumerate(zip(others, matches, strict=True), start=1):
            for k, card in enumerate(page.concepts):
                if k not in match.values():
                    rows.append([card if n == place else None for n in range(len(self.pages))])
        return rows

    @cached_property
    def shared_images(self) -> int:
        """How many images all runs were trained on."""
        return len(set.intersection(*({record.sha256 for record in run.images} for run in self.runs)))


def _card(page: Page, concept: int | None) -> dict[str, Any] | None:
    return None if concept is None else page.concepts[concept]


def _matches(first: Page, other: Page) -> dict[int, int]:
    """The concepts of two runs that are strong in the same images, one to one (the Hungarian method)."""
    rows = {record.sha256: row for row, record in enumerate(other.run.images)}
    both = {row: rows[record.sha256] for row, record in enumerate(first.run.images) if record.sha256 in rows}
    if not both:
        return {}
    ours, theirs = _unit(first.weights[list(both)]), _unit(other.weights[list(both.values())])
    similar = ours.T @ theirs  # (K, K') cosines of columns
    return {a: b for a, b in match_one_to_one(similar).items() if similar[a, b] >= LIKE}


def _unit(weights: np.ndarray) -> np.ndarray:
    """Columns of length 1."""
    return weights / np.maximum(np.linalg.norm(weights, axis=0, keepdims=True), 1e-9)


def _measure_row(measure: str, found: list[tuple[str, float | None, Any] | None]) -> Row:
    title = next(entry[0] for entry in found if entry)
    cells = [figure(measure, entry[1]) + interval(measure, entry[2]) if entry else "" for entry in found]
    shares = {n: entry[1] for n, entry in enumerate(found) if entry and entry[1] is not None and measure in SHARES}
    most = max(shares.values(), default=None)
    best = {n for n, share in shares.items() if share == most} if len(set(shares.values())) > 1 else set()
    return Row(title, cells, best)


def _leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of a dataclass of settings."""
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        nested = dataclasses.is_dataclass(value)
        found |= _leaves(value, f"{prefix}{entry.name}.") if nested else {prefix + entry.name: value}
    return found
