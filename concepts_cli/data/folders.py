"""Images in folders, and single files."""

from __future__ import annotations

import os
from pathlib import Path

from concepts_cli.data.beside import with_files
from concepts_cli.data.images import SUFFIXES
from concepts_cli.data.source import Fields, Found, Source, is_ending, taken
from concepts_cli.errors import UcdError, printable
from concepts_cli.output import Output

HINT = "data.images lists folders or files, relative to the recipe"


class Folders(Source):
    """A folder, searched recursively and sorted by name, or a single file. The last kind: it takes what is left.

    Hidden files and folders are left out. Links to folders are followed, but no folder is searched twice.
    """

    def takes(self, place: str) -> bool:
        return True

    def find(self, place: str, fields: Fields, chosen: slice, out: Output) -> list[Found]:
        if os.path.isfile(place):
            paths = [Path(place)]
        elif not os.path.isdir(place):
            raise UcdError(f"no such folder or image: {printable(place) or repr('')}", HINT)
        else:
            masks = fields.masks if fields.masks and is_ending(fields.masks) else None
            everything = sorted(path for path in _images_below(place) if not (masks and path.name.endswith(masks)))
            if not everything:
                raise UcdError(f"no images in {printable(place)}", _hint(place))
            paths = list(taken(everything, chosen, place))
        fields.check(place, columns=False)
        return [with_files(Found(path), fields) for path in paths]


def _hint(place: str) -> str:
    for suffix in (".tar", ".parquet", ".csv"):
        if any(name.endswith(suffix) for name in os.listdir(place)):
            return f"to read its {suffix} files, name them one by one"
    return f"looked for {', '.join(sorted(SUFFIXES))}"


def _images_below(place: str) -> list[Path]:
    found: list[Path] = []
    searched: set[tuple[int, int]] = set()
    _is_new(place, "", searched)
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
