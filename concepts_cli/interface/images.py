"""Images as callers have them, paths or PIL images, and the files that commands read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from PIL import Image, ImageOps

from concepts_cli.errors import UcdError

AnyImage = str | os.PathLike[str] | Image.Image
Images = AnyImage | Iterable[AnyImage]


def as_files(images: Images, folder: Path) -> list[Path]:
    """The files of images; one that is in memory is written to `folder` as a PNG.

    Raises UcdError for what is neither a path nor a PIL image.
    """
    several = [images] if is_one(images) else list(images)
    return [_as_file(image, folder / f"{n:05d}.png") for n, image in enumerate(several)]


def is_one(images: Images) -> TypeGuard[AnyImage]:
    """Whether one image, or one folder, was given rather than a list."""
    return isinstance(images, (str, os.PathLike, Image.Image))


def _as_file(image: AnyImage, path: Path) -> Path:
    if isinstance(image, (str, os.PathLike)):
        return Path(image)
    if not isinstance(image, Image.Image):
        raise UcdError(f"a {type(image).__name__} is not an image", "give paths or PIL images")
    path.parent.mkdir(parents=True, exist_ok=True)
    upright = ImageOps.exif_transpose(image)
    (upright.convert("RGB") if upright.mode in ("CMYK", "YCbCr", "LAB", "HSV") else upright).save(path, "PNG")
    return path
