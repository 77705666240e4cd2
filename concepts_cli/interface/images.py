"""Turn callers' images, paths or PIL images, into the files that commands read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from PIL import Image, ImageOps

from concepts_cli.data.images import FORMATS
from concepts_cli.errors import UcdError

AnyImage = str | os.PathLike[str] | Image.Image
Images = AnyImage | Iterable[AnyImage]


def as_files(images: Images, folder: Path) -> list[Path]:
    """The files of images. One in memory is written to `folder` as a PNG, unless it is unchanged from its own file.

    Raises UcdError for anything but paths and PIL images, and for an empty list.
    """
    items = images if isinstance(images, Iterable) and not is_one(images) else [images]
    files = [_as_file(image, folder / f"{n:05d}.png") for n, image in enumerate(items)]
    if not files:
        raise UcdError("an empty list of images", "give paths or PIL images")
    return files


def is_one(images: Images) -> TypeGuard[AnyImage]:
    """Whether one image, or one folder, was given rather than a list."""
    return isinstance(images, (str, os.PathLike, Image.Image))


def _as_file(image: object, path: Path) -> Path:
    if isinstance(image, (str, os.PathLike)):
        return Path(image)
    if not isinstance(image, Image.Image):
        raise UcdError(f"{type(image).__name__} is not an image", "give paths or PIL images")
    if own := _own_file(image):
        return own
    path.parent.mkdir(parents=True, exist_ok=True)
    upright = ImageOps.exif_transpose(image)
    (upright.convert("RGB") if upright.mode in ("CMYK", "YCbCr", "LAB", "HSV") else upright).save(path, "PNG")
    return path


def _own_file(image: Image.Image) -> Path | None:
    """The file that an image was opened from, if the image is unchanged.

    An image's weights depend a little on its file's hash, so its own file gives the right ones.
    """
    path = Path(getattr(image, "filename", "") or "")
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=FORMATS) as file:
            same = (file.mode, file.size) == (image.mode, image.size) and file.tobytes() == image.tobytes()
    except OSError:
        return None
    return path if same else None
