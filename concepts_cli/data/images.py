"""Find unlabelled images, read them, and turn them into squares of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from concepts_cli.errors import UcdError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


@dataclass(frozen=True)
class ImageRecord:
    """One training image: its path, a hash of the file, and its size in px once upright."""

    path: str
    sha256: str
    width: int
    height: int


def find_images(places: Sequence[str | Path], images_per_folder: int | None = None, skip: int = 0) -> list[Path]:
    """Every image file in folders (searched recursively, sorted by name), and single files.

    Of each folder, `skip` images are left out and the next `images_per_folder` are kept. Raises UcdError for a path
    that does not exist, and if there are no images.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        if place.is_file():
            paths.append(place)
            continue
        if not place.is_dir():
            raise UcdError(
                f"no such folder or image: {place}", "data.images lists folders or files, relative to the recipe"
            )
        in_folder = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not in_folder:
            raise UcdError(f"no images in {place}", f"looked for {', '.join(sorted(SUFFIXES))}")
        if skip >= len(in_folder):
            raise UcdError(f"data.skip_images: {skip} leaves none of the {len(in_folder)} images in {place}")
        paths += in_folder[skip:][:images_per_folder]
    if not paths:
        raise UcdError("no images", "data.images lists folders or files, relative to the recipe")
    return paths


def place_of(path: str | Path, places: Sequence[str | Path]) -> int:
    """Which of the `places` given to `find_images` holds this image: the first that does."""
    return next(i for i, place in enumerate(places) if Path(path).is_relative_to(place))


def open_image(path: Path, *, under: str = "white") -> Image.Image:
    """Read an RGB image, turned upright by its EXIF orientation, with transparency laid on the colour `under`.

    Raises UcdError if the file can't be read as an image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: scale the full range to 0..255
                values = np.asarray(image, dtype=np.float64)
                top = 255.0 if values.max() <= 255 else 65535.0
                image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, under), image)
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "remove it from the folder or convert it to PNG or JPEG"
        if isinstance(error, Image.DecompressionBombError):
            hint = "the image is too large; scale it down"
        raise UcdError(f"not a readable image: {path}", hint) from error


def read_images(paths: Sequence[Path]) -> list[ImageRecord]:
    """The record of every image. Raises one UcdError that names all unreadable files."""
    records, broken = [], []
    for path in paths:
        try:
            width, height = open_image(path).size
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            records.append(ImageRecord(str(path), digest, width, height))
        except (UcdError, OSError):
            broken.append(str(path))
    if broken:
        shown = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise UcdError(
            f"not readable as an image: {shown}",
            "remove or convert them; supported: PNG, JPEG, WebP, BMP, TIFF and GIF",
        )
    return records


def to_pixels(image: Image.Image, resolution: int, resize: str = "squash") -> Tensor:
    """The image as a square of `resolution` px: (3, H, W) in [-1, 1].

    `squash` stretches both sides to fit, as published; `crop` scales the shorter side and crops the centre.
    """
    size = (resolution, resolution)
    if resize == "crop":
        image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    else:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return as_pixels(image)


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


def as_pixels(image: Image.Image) -> Tensor:
    """An image at its own size as (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:  # (3, H, W) in [0, 1]
    """The image with these pixels in [0, 1]."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
