"""`ucd recipes`: what can be trained without writing a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from concepts_cli.recipe import shipped_recipes


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with the package: `ucd train NAME`."""

    name: str
    about: str
    path: Path


def recipes() -> list[ShippedRecipe]:
    """The shipped recipes by name, each with what its file says first."""
    return [ShippedRecipe(name, _about(path), path) for name, path in shipped_recipes().items()]


def _about(path: Path) -> str:
    """The first paragraph of the comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line[1:].strip() for line in takewhile(lambda line: line.strip() != "#", lines))
