"""Find the images in folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.data.images import SUFFIXES
from concepts_cli.errors import UcdError, printable

HINT = "data.images lists folders or files, relative to the recipe"


def find_images(places: Sequence[str | Path], images_per_folder: int | None = None, skip: int = 0) -> list[Path]:
    """Every image file in folders (searched recursively, sorted by name), and single files.

    Hidden files and folders are left out unless they are among the `places`. Links to folders are followed, but no
    folder is searched twice. Of each folder, `skip` images are left out and the next `images_per_folder` are kept.
    Raises UcdError for a path that does not exist, and if there are no images.
    """
    paths: list[Path] = []
    for place in places:
        if os.path.isfile(place):
            paths.append(Path(place))
            continue
        if not os.path.isdir(place):
            raise UcdError(f"no such folder or image: {printable(place) or repr('')}", HINT)
        in_folder = sorted(_images_below(place))
        if not in_folder:
            raise UcdError(f"no images in {printable(place)}", f"looked for {', '.join(sorted(SUFFIXES))}")
        if skip >= len(in_folder):
            problem = f"data.skip_images: {skip} leaves none of the {len(in_folder)} images in {printable(place)}"
            raise UcdError(problem)
        paths += in_folder[skip:][:images_per_folder]
    if not paths:
        raise UcdError("no images", HINT)
    return paths


def _images_below(place: str | Path) -> list[Path]:
    found: list[Path] = []
    searched: set[tuple[int, int]] = set()
    _is_new(os.fspath(place), "", searched)
    for folder, inside, files in os.walk(place, followlinks=True):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and _is_new(folder, name, searched))
        names = (name for name in files if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES)
        found += (path for path in (Path(folder, name) for name in names) if os.path.isfile(path))
    return found


def _is_new(folder: str, name: str, searched: set[tuple[int, int]]) -> bool:
    """Whether a folder has not been searched by any of its names; remembers it."""
    try:
        status = os.stat(os.path.join(folder, name))
    except OSError:
        return False
    known = (status.st_dev, status.st_ino) in searched
    searched.add((status.st_dev, status.st_ino))
    return not known


def place_of(path: str | Path, places: Sequence[str | Path]) -> int:
    """Which of the `places` given to `find_images` holds this image: the first that does."""
    return next(i for i, place in enumerate(places) if Path(path).is_relative_to(place))
