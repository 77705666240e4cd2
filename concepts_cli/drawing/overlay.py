"""Draw heat maps beside and on a picture, in colours of evenly growing lightness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TypedDict

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from concepts_cli.errors import printable

SIDE, LONGEST = 256, 1024  # px: what a picture's shorter side is enlarged to, and its longer one reduced to
CELL = 128  # px, of a picture on a sheet
PAD = 12
INK, FAINT, PAPER = (24, 24, 28), (110, 110, 118), (255, 255, 255)
Box = tuple[int, int, int, int]  # left, top, right, bottom
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # what Pillow has for a size, with FreeType and without


class MapNumbers(TypedDict):
    """The figures that `numbers` computes for a map."""

    mean: float
    peak: float
    center: tuple[float, float]
    coverage: float


def overlay(
    picture: Image.Image,
    heat: np.ndarray,
    *,
    title: str,
    subtitle: str = "",
    extra: tuple[Image.Image, str] | None = None,
) -> tuple[Image.Image, list[Box]]:
    """Draw the picture, and again under its heat map, with a title and a legend; also return the boxes of the two.

    `heat` (H, W) in [0, 1] may have any size: it is enlarged bicubically to the picture's. `extra` is a second picture
    of the same size, and its caption.
    """
    scale = min(max(1.0, SIDE / min(picture.size)), LONGEST / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    picture = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    shown = [picture, *([extra[0].convert("RGB").resize(size, Image.Resampling.LANCZOS)] if extra else [])]
    shown.append(blend(picture, heat))
    head, foot = 46, 30
    width, height = max(size[0], 180), size[1]  # wide enough for the legend
    page = Image.new("RGB", (len(shown) * (width + PAD) + PAD, height + head + foot + PAD), PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [PAD + i * (width + PAD) for i in range(len(shown))]
    for left, panel in zip(lefts, shown, strict=True):
        page.paste(panel, (left, head))
    draw.text((PAD, 8), printable(title), INK, ImageFont.load_default(17))
    draw.text((PAD, 28), printable(subtitle), FAINT, ImageFont.load_default(11))
    if extra:
        draw.text((lefts[1], head + height + 7), extra[1], FAINT, ImageFont.load_default(11))
    _legend(page, draw, left=lefts[-1], top=head + height + 9, width=width)
    return page, [(left, head, left + size[0], head + height) for left in (lefts[0], lefts[-1])]


def panels(page: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Crop the picture, and the picture under its heat map, from an overlay that was saved with its boxes."""
    picture, hot = (page.crop(box) for box in json.loads(page.info["panels"]))
    return picture, hot


def sheet(rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """Draw rows of pictures, each with its caption below."""
    line, columns = CELL + 22, max(map(len, rows))
    page = Image.new("RGB", (columns * (CELL + PAD) + PAD, len(rows) * line + 2 * PAD), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for y, row in enumerate(rows):
        for x, (picture, caption) in enumerate(row):
            left, top = PAD + x * (CELL + PAD), PAD + y * line
            small = picture.convert("RGB")
            small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(small, (left, top))
            draw.text((left, top + CELL + 3), _fitting(draw, caption, font, CELL), FAINT, font)
    return page


def numbers(heat: np.ndarray, shown: np.ndarray, threshold: float) -> MapNumbers:
    """Describe a map (H, W) in numbers: its mean and peak, its centre of mass (from left and top, as shares of width
    and height), and the share of its area in which `shown`, the map in [0, 1], exceeds `threshold`.
    """
    total = float(heat.sum())
    height, width = heat.shape
    across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    if total > 0:
        center = float((heat.sum(axis=0) * across).sum() / total), float((heat.sum(axis=1) * down).sum() / total)
    else:
        center = 0.5, 0.5
    return {
        "mean": float(heat.mean()),
        "peak": float(heat.max()),
        "center": center,
        "coverage": float((shown > threshold).mean()),
    }


def mask(heat: np.ndarray, size: tuple[int, int], threshold: float) -> Image.Image:
    """A mask that is white where a map (H, W) in [0, 1], enlarged to `size` (width, height), exceeds the threshold."""
    return Image.fromarray(((enlarged(heat, size) > threshold) * 255).astype(np.uint8))


def enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a map (H, W) bicubically to `size` (width, height), clipped to [0, 1]."""
    small = Image.fromarray(np.asarray(heat, dtype=np.float32))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC)).clip(0, 1)


def blend(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture in grey under the heat map's colours, which are more opaque where it is hotter."""
    hot = enlarged(heat, picture.size)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    opacity = 0.65 + 0.2 * hot[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours(hot) * opacity).round().astype(np.uint8))


def colours(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as RGB in [0, 255]: (...) -> (..., 3), from near black through red to pale yellow."""
    table = _table()
    return table[(values * (len(table) - 1)).round().astype(int)]


@cache
def _table(steps: int = 256) -> np.ndarray:
    """(steps, 3) RGB on a path through OKLab (Ottosson, 2020), where equal steps of lightness look equal."""
    t = np.linspace(0, 1, steps)
    lightness = 0.2 + 0.75 * t
    hue = np.radians(285 + 185 * t)  # violet, red, orange, yellow
    chroma = 0.09 + 0.24 * t * (1 - t) ** 0.8
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    cones = lab @ np.array(
        [
            [1, 1, 1],
            [0.3963377774, -0.1055613458, -0.0894841775],
            [0.2158037573, -0.0638541728, -1.2914855480],
        ]
    )
    linear = cones**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, *, left: int, top: int, width: int) -> None:
    """Draw a colour bar with a word at each end."""
    font = ImageFont.load_default(11)
    low, high = "least", "most"
    start, end = left + draw.textlength(low, font) + 8, left + width - draw.textlength(high, font) - 8
    bar = colours(np.linspace(0, 1, round(end - start)))[None].repeat(10, axis=0)
    page.paste(Image.fromarray(bar.round().astype(np.uint8)), (round(start), top))
    draw.text((left, top - 2), low, FAINT, font)
    draw.text((left + width, top - 2), high, FAINT, font, anchor="ra")


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """The text on one line, shortened in the middle if it is too long."""
    text = printable(text)
    while draw.textlength(text, font) > width and len(text) > 5:
        middle = len(text) // 2
        text = text[: middle - 1].rstrip("…") + "…" + text[middle + 1 :].lstrip("…")
    return text
