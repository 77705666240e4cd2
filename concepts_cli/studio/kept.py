"""Mixes that were kept: the compositions in a run's folder whose own command says what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from concepts_cli.pictures.commands import read_command
from concepts_cli.report.inline import Gallery
from concepts_cli.runs.files import png_text

COMPOSITIONS = "compositions"
MOST, SIDE = 24, 192


def kept_mixes(folder: Path) -> list[dict[str, Any]]:
    """The newest mixes of a run, each with its terms, its seed and a picture.

    Compositions made with --like or --sweep are left out: they have no terms of their own.
    """
    files = [path for path in (folder / COMPOSITIONS).rglob("00000.png") if path.is_file()]
    gallery, mixes = Gallery(), list[dict[str, Any]]()
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        made = read_command(png_text(path).get("command", ""))
        if made is None or made.verb != "compose" or not made.texts or {"like", "sweep"} & set(made.options):
            continue
        try:
            terms = [_term(text) for text in made.texts]
            seed = int(made.options.get("seed", "0"))
        except ValueError:
            continue
        if gallery.add(path, SIDE):
            picture = gallery.pictures[path, SIDE].uri
            mixes.append({"title": " + ".join(made.texts), "terms": terms, "seed": seed, "picture": picture})
        if len(mixes) == MOST:
            break
    return mixes


def _term(text: str) -> tuple[str, float]:
    """A term and its weight. Raises ValueError for one without a weight, or whose weight can't be read."""
    name, _, weight = text.rpartition("=")
    if not name or not math.isfinite(float(weight)):
        raise ValueError(text)
    return name, float(weight)
