"""A kind of source of images: a file each, behind one small interface. `finding` lists the kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from concepts_cli.errors import UcdError, printable
from concepts_cli.output import Output

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """Where images, their captions and their masks are: columns of a table, or endings of files beside an image.

    An ending has a dot, as in `.txt` or `-mask.png`. What is `optional` may be missing.
    """

    images: str | None = None
    captions: str | None = None
    masks: str | None = None
    optional: bool = False

    def check(self, place: str, *, columns: bool) -> None:
        """Raise UcdError for a column where there are only files, or, with `columns`, for an ending where there are
        only columns.
        """
        for name, field in (("captions", self.captions), ("masks", self.masks)):
            if field and is_ending(field) == columns and not self.optional:
                has, hint = ("columns, no files", "text") if columns else ("files, no columns", ".txt or -mask.png")
                raise UcdError(f"data.{name}: {field!r}: {printable(place)} has {has}", f"name one, such as {hint}")


@dataclass(frozen=True)
class Found:
    """An image file, with what belongs to it; or the `problem` with it, which is raised unless it is left out."""

    path: Path
    caption: str | None = None
    mask: Path | None = None
    problem: UcdError | None = None
    place: int = 0  # which of the places it is from


class Source(ABC):
    """A kind of place that images come from. All of its images end up as files, which the rest of the code reads."""

    @abstractmethod
    def takes(self, place: str) -> bool:
        """Whether a place is of this kind, by its name or its type."""

    @abstractmethod
    def find(self, place: str, fields: Fields, chosen: slice, out: Output) -> list[Found]:
        """The chosen images of a place, in its order. Raises UcdError for a place that can't be read, or has none."""


def is_ending(field: str) -> bool:
    return "." in field


def taken(items: Sequence[T], chosen: slice, place: str) -> Sequence[T]:
    """The chosen items. Raises UcdError if that leaves none."""
    if not items[chosen]:
        raise UcdError(f"data.skip_images: {chosen.start} leaves none of the {len(items)} images in {printable(place)}")
    return items[chosen]
