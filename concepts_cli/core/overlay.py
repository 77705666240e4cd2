"""Heat maps as people look at them: beside the picture and on it, in colours whose lightness grows evenly."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 256  # px that a picture is enlarged to, at least
PAD = 12
INK, FAINT, PAPER = (24, 24, 28), (110, 110, 118), (255, 255, 255)


def overlay(picture: Image.Image, heat: np.ndarray, *, title: str, subtitle: str = "") -> Image.Image:
    """The picture, the same under its heat map, a title above and a legend below.

    `heat` (H, W) in [0, 1] may be of any size: it is enlarged bicubically to the picture's.
    """
    scale = max(1.0, SIDE / min(picture.size))
    picture = picture.convert("RGB").resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
    width, height = picture.size
    head, foot = 46, 30
    page = Image.new("RGB", (2 * width + 3 * PAD, height + head + foot + PAD), PAPER)
    page.paste(picture, (PAD, head))
    page.paste(blend(picture, heat), (width + 2 * PAD, head))
    draw = ImageDraw.Draw(page)
    draw.text((PAD, 8), title, INK, ImageFont.load_default(17))
    draw.text((PAD, 28), subtitle, FAINT, ImageFont.load_default(11))
    _legend(page, draw, left=width + 2 * PAD, top=head + height + 9, width=width)
    return page


def blend(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture in grey with the heat map's colours on it, the more opaque the hotter."""
    small = Image.fromarray(np.asarray(heat, dtype=np.float32))
    hot = np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
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
    """A bar of the colours between its two ends in words."""
    font = ImageFont.load_default(11)
    low, high = "least attention", "most"
    start, end = left + draw.textlength(low, font) + 8, left + width - draw.textlength(high, font) - 8
    bar = colours(np.linspace(0, 1, round(end - start)))[None].repeat(10, axis=0)
    page.paste(Image.fromarray(bar.round().astype(np.uint8)), (round(start), top))
    draw.text((left, top - 2), low, FAINT, font)
    draw.text((left + width, top - 2), high, FAINT, font, anchor="ra")
