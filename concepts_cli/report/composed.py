"""The pictures behind the metrics of composition: pairs of concepts, and training images generated again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concepts_cli.report.inline import Gallery
from concepts_cli.report.pictures import SIDE, Shown
from concepts_cli.runs.run import Run

MOST_CONCEPTS, MOST_AGAIN = 8, 12  # on the page


@dataclass(frozen=True)
class Pair:
    """Two concepts composed: a picture, and how often both are seen."""

    shown: Shown
    seen: str


def composed_pairs(run: Run, gallery: Gallery, result: dict[str, Any] | None) -> tuple[list[str], list[list[Pair]]]:
    """The first concepts, and a row per concept: its pairs with those before it. Empty if none was made.

    `result` is the metric `composition` in evaluation.json.
    """
    names = list(result["concepts"])[:MOST_CONCEPTS] if result else []
    folder = run.path / "metrics" / "pairs"
    rows = []
    for b, second in enumerate(names):
        row = []
        for a, first in enumerate(names[:b]):
            path = folder / f"{first}+{second}" / "00000.png"
            share = result["matrix"][a][b] if result else None
            seen = "" if share is None else f"{100 * share:.0f}%"
            row.append(Pair(Shown(gallery.add(path, SIDE), f"{first} and {second}", f"both seen in {seen}"), seen))
        rows.append(row)
    return (names, rows) if any(pair.shown.picture for row in rows for pair in row) else ([], [])


def generated_again(run: Run, gallery: Gallery, images: Sequence[Shown]) -> list[tuple[Shown, Shown]]:
    """Training images, and each as it is generated from its own weights."""
    pairs = []
    for path in sorted((run.path / "metrics" / "anew").glob("[0-9]*.png")):
        row = int(path.stem) if path.stem.isdecimal() else len(images)
        if row < len(images) and (picture := gallery.add(path, SIDE)):
            pairs.append((images[row], Shown(picture, f"{Path(images[row].title).stem}, generated again")))
    return pairs[:MOST_AGAIN]
