"""What lies beside an image: `x.txt` with its caption, `x-mask.png` with its mask."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from concepts_cli.data.source import Fields, Found, is_ending
from concepts_cli.errors import UcdError, printable

MOST_BYTES = 16_384  # of a caption, which a model reads a few dozen words of
SURE = "write it, or set data.{}: null"


def with_files(found: Found, fields: Fields) -> Found:
    """The image with the caption and the mask that lie beside it, where `fields` has endings for them."""
    if fields.captions and is_ending(fields.captions):
        place = beside(found.path, fields.captions)
        if os.path.isfile(place):
            try:
                found = replace(found, caption=_read(place))
            except UcdError as error:
                found = replace(found, problem=error)
        found = without(found, "captions", fields, found.caption is None, printable(place))
    if fields.masks and is_ending(fields.masks):
        mask = beside(found.path, fields.masks)
        if os.path.isfile(mask):
            found = replace(found, mask=mask)
        found = without(found, "masks", fields, found.mask is None, printable(mask))
    return found


def without(found: Found, what: str, fields: Fields, missing: bool, where: str) -> Found:
    """The image, with a problem if it lacks its caption or its mask, which should be at `where`."""
    if not missing or fields.optional or found.problem:
        return found
    problem = f"no {what[:-1]} of {printable(found.path.name)}: {where} is missing"
    return replace(found, problem=UcdError(problem, SURE.format(what)))


def beside(image: Path, ending: str) -> Path:
    return image.with_name(image.stem + ending)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UcdError(f"{printable(path)}: a caption of more than {MOST_BYTES:,} bytes", "shorten it")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UcdError(f"{printable(path)}: not a caption: it isn't UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UcdError(f"can't read {printable(path)}: {error.strerror}", "check its permissions") from error
