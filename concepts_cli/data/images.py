"""Read images, and turn them into pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from concepts_cli.data.buckets import training_size
from concepts_cli.errors import UcdError, printable

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # whatever a file is called
MOST_PIXELS = 178_956_970  # Pillow's own limit: half a gigabyte once decoded


@dataclass(frozen=True)
class ImageRecord:
    """One training image: its path, a hash of the file, and its size in px once upright.

    Some have a caption with a `{}` for the concept, and a mask: a file, and its hash. `place` is the entry of
    data.images that it is from.
    """

    path: str
    sha256: str
    width: int
    height: int
    caption: str | None = None
    mask: str | None = None
    mask_sha256: str | None = None
    place: int = 0


@contextmanager
def opened(file: BinaryIO | Path, path: Path | None = None) -> Iterator[Image.Image]:
    """Open an image in one of `FORMATS` whose file is at `path`; only its header is read.

    Raises UcdError if it can't be read, whether it is opened or decoded in the block, and if it is too large.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except (UcdError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UcdError(f"more than {MOST_PIXELS:,} pixels: {printable(path or file)}", "scale it down") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        hint = "remove it, or convert it to PNG or JPEG; supported: PNG, JPEG, WebP, BMP, TIFF and GIF"
        raise UcdError(f"not a readable image: {printable(path or file)}", hint) from error


def open_image(path: Path, *, under: str = "white") -> Image.Image:
    """Read an RGB image, turned upright by its EXIF orientation, with transparency laid on the colour `under`.

    Raises UcdError if the file can't be read as an image, or has more than `MOST_PIXELS`.
    """
    with opened(path) as file:
        return upright_rgb(file, under=under)


def upright_rgb(image: Image.Image, *, under: str = "white") -> Image.Image:
    """The image in 8-bit RGB, turned upright by its EXIF orientation, with transparency laid on the colour `under`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: scale the full range to 0..255
        values = np.asarray(image, dtype=np.float64)
        top = 255.0 if values.max() <= 255 else 65535.0
        image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, under), image)
    return image.convert("RGB")


def resized(image: Image.Image, resolution: int, resize: str = "squash", multiple: int = 1) -> Image.Image:
    """The image as a square of `resolution` px, or with `bucket` as large as its bucket, in multiples of `multiple`.

    `squash` stretches both sides to fit, as published; `crop` and `bucket` scale the image until it covers the size,
    and crop the centre.
    """
    size = training_size(*image.size, resolution=resolution, resize=resize, multiple=multiple)
    if resize == "squash":
        return image.resize(size, Image.Resampling.BICUBIC)
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def to_pixels(image: Image.Image, resolution: int, resize: str = "squash", multiple: int = 1) -> Tensor:
    """The image as `resized` makes it: (3, H, W) in [-1, 1]."""
    return as_pixels(resized(image, resolution, resize, multiple))


def centre_square(image: Image.Image, resolution: int) -> Image.Image:
    """The centre of the image once its shorter side is scaled to `resolution` px, bilinearly.

    The same as torchvision's `Resize` and `CenterCrop`, which crop at whole pixels of the scaled image; only the square
    is computed, because all of a very long image may not fit into memory.
    """
    edges = []  # of the square in the original: (left, right), (top, bottom)
    for side in image.size:
        scaled = int(resolution * side / min(image.size))
        start = round((scaled - resolution) / 2)
        edges.append((start * side / scaled, (start + resolution) * side / scaled))
    (left, right), (top, bottom) = edges
    return image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=(left, top, right, bottom))


def to_unit(image: Image.Image) -> Tensor:
    """A greyscale image at its own size as (H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)) / 255


def as_pixels(image: Image.Image) -> Tensor:
    """An image at its own size as (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:  # (3, H, W) in [0, 1]
    """The image with these pixels in [0, 1]."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
