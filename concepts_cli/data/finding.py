"""Find the images in all places that a recipe or a command names, of whatever kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from concepts_cli.data.folders import HINT, Folders
from concepts_cli.data.hub import HubDatasets
from concepts_cli.data.lists import Lists
from concepts_cli.data.source import Fields, Found, Source
from concepts_cli.data.tars import Tars
from concepts_cli.errors import UcdError
from concepts_cli.output import Output

SOURCES: tuple[Source, ...] = (HubDatasets(), Tars(), Lists(), Folders())  # a place is of the first kind that takes it


def find(
    places: Sequence[str | Path],
    fields: Fields | None = None,
    *,
    skip: int = 0,
    most: int | None = None,
    out: Output | None = None,
) -> list[Found]:
    """Every image in the places, with its caption and its mask if `fields` asks for them.

    Of each folder, table or archive, `skip` images are left out and the next `most` are kept. Raises UcdError for a
    place that does not exist or can't be read, and if there are no images.
    """
    fields, out = fields or Fields(), out or Output(quiet=True)
    chosen = slice(skip, None if most is None else skip + most)
    found: list[Found] = []
    for number, place in enumerate(os.fspath(place) for place in places):
        source = next(source for source in SOURCES if source.takes(place))
        found += (replace(image, place=number) for image in source.find(place, fields, chosen, out))
    if not found:
        raise UcdError("no images", HINT)
    return found


def find_images(places: Sequence[str | Path]) -> list[Path]:
    """The files of all images in the places. Raises what `find` raises."""
    return [image.path for image in find(places)]
