"""What is known of every training image before training: a hash of its file, and its size.

Only headers are decoded: that an image is whole is seen from its checksums, its end mark or its length, where its
format has them. Files that have not changed since an earlier run are not read again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from concepts_cli.data.cache import KnownImages, Version, version
from concepts_cli.data.captions import as_caption
from concepts_cli.data.images import ImageRecord, opened
from concepts_cli.data.source import Found
from concepts_cli.errors import UcdError, printable
from concepts_cli.output import Output

SMALL = 64 * 1024  # bytes: decoded as quickly as checked
AT_ONCE = 256  # images between two writes to what is remembered
GROUP = 8  # images that a thread reads at a time
MANY = 500  # images, for which progress is shown
NAMED = 5  # broken images in a message
READERS = min(32, os.cpu_count() or 1)  # threads: hashing and reading need no lock of Python's
ORIENTATION, TURNED = 0x0112, range(5, 9)  # EXIF's tag, and its values for a picture on its side
PNG_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may hold EXIF data


def read_images(
    images: Sequence[Path | Found], *, skip_broken: bool = False, out: Output | None = None
) -> list[ImageRecord]:
    """The record of every image, in order, with its caption and its mask.

    Raises one UcdError for all that can't be used: unreadable files, and masks that don't fit their images. With
    `skip_broken`, every new file is decoded, and those are left out and named in a warning.
    """
    out = out or Output(quiet=True)
    found = [image if isinstance(image, Found) else Found(image) for image in images]
    files = [image.path for image in found if not image.problem]
    masks = [image.mask for image in found if image.mask and not image.problem]
    read: Iterator[ImageRecord | UcdError] = _results([*files, *masks], whole=skip_broken)
    if len(files) + len(masks) >= MANY:
        read = out.track(read, total=len(files) + len(masks), label="reading images")
    results = list(read)
    of_images, of_masks = iter(results[: len(files)]), iter(results[len(files) :])
    records: list[ImageRecord] = []
    broken: list[UcdError] = []
    for image in found:
        result = image.problem or _whole(image, next(of_images), next(of_masks) if image.mask else None)
        if isinstance(result, UcdError):
            broken.append(result)
        else:
            records.append(result)
    if not broken:
        return records
    problems = [error.message for error in broken[:NAMED]]
    if len(broken) > NAMED:
        problems.append(f"and {len(broken) - NAMED:,} more")
    if skip_broken and records:
        out.warn(f"skipping {len(broken):,} of {len(found):,} images: {', '.join(problems)}")
        return records
    raise UcdError("\n".join(problems), "; ".join(dict.fromkeys(error.hint or "" for error in broken)))


def _whole(found: Found, image: ImageRecord | UcdError, mask: ImageRecord | UcdError | None) -> ImageRecord | UcdError:
    """The record of an image with its caption and its mask, or what is wrong with one of the three."""
    if isinstance(image, UcdError):
        return image
    if isinstance(mask, UcdError):
        return UcdError(f"the mask is {mask.message}", mask.hint)
    if mask and (mask.width, mask.height) != (image.width, image.height):
        sizes = f"{mask.width} x {mask.height} px, and its image {image.width} x {image.height}"
        return UcdError(f"the mask {printable(mask.path)} has {sizes}", "make it as large as the image")
    try:
        caption = None if found.caption is None else as_caption(found.caption, image.path)
    except UcdError as error:
        return error
    image = replace(image, caption=caption, place=found.place)
    return replace(image, mask=mask.path, mask_sha256=mask.sha256) if mask else image


def _results(paths: Sequence[Path], *, whole: bool) -> Iterator[ImageRecord | UcdError]:
    """The record of every image in order, or what is wrong with it; `whole` decodes all of it."""
    pool = ThreadPoolExecutor(READERS)
    try:
        with KnownImages() as known:
            for start in range(0, len(paths), AT_ONCE):
                some = paths[start : start + AT_ONCE]
                before = [known.get(path) for path in some]
                unread = [path for path, record in zip(some, before, strict=True) if record is None]
                groups = [unread[n : n + GROUP] for n in range(0, len(unread), GROUP)]
                read = [result for group in pool.map(partial(_read_all, whole=whole), groups) for result in group]
                known.add(result for result in read if not isinstance(result, UcdError))
                fresh = iter(read)
                for record in before:
                    result = record or next(fresh)
                    yield result[1] if isinstance(result, tuple) else result
    finally:
        pool.shutdown(cancel_futures=True)


def _read_all(paths: Sequence[Path], whole: bool) -> list[tuple[Version, ImageRecord] | UcdError]:
    return [_read(path, whole) for path in paths]


def _read(path: Path, whole: bool) -> tuple[Version, ImageRecord] | UcdError:
    try:
        with path.open("rb") as file:
            changed = version(os.fstat(file.fileno()))
            if changed[0] > SMALL:
                with opened(file, path):  # before all of it is read
                    file.seek(0)
            data = file.read()
        with opened(io.BytesIO(data), path) as image:
            (width, height), form = image.size, image.format
            if whole or len(data) <= SMALL or not _is_whole(form, data):
                image.load()
            may_turn = form != "PNG" or any(chunk in data for chunk in PNG_NOTES)
            turned = may_turn and image.getexif().get(ORIENTATION) in TURNED
    except UcdError as error:
        return error
    except OSError as error:
        return UcdError(f"can't read {printable(path)}: {error.strerror}", "check its permissions")
    size = (height, width) if turned else (width, height)
    return changed, ImageRecord(str(path), hashlib.sha256(data).hexdigest(), *size)


def _is_whole(form: str | None, data: bytes) -> bool:
    """Whether a file is surely not cut short; False if only decoding it can tell."""
    if form == "JPEG":
        return data.endswith(b"\xff\xd9")
    if form == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if form == "PNG":
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                image.verify()
            return True
        except Exception:  # a wrong checksum, which not every reader minds
            return False
    return False
