"""Colours that a reader can trust, and pages of the right size."""

import numpy as np
import pytest
from PIL import Image

from concepts_cli.core.overlay import blend, colours, overlay


def lightness(rgb):
    """CIE L* of sRGB in [0, 255], by its definition (and not by the space that the colours are made in)."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_lightness_grows_evenly():
    steps = np.diff(lightness(colours(np.linspace(0, 1, 16))))
    assert (steps > 3).all() and steps.max() < 2 * steps.min()


def test_colours_keep_the_shape_of_the_values():
    assert colours(np.zeros((2, 5))).shape == (2, 5, 3)
    np.testing.assert_array_equal(colours(np.array([1.0])), colours(np.ones(1)))


@pytest.mark.parametrize("size", [(64, 64), (300, 300), (48, 96)])
def test_small_pictures_are_enlarged_and_the_map_lies_beside_them(size):
    heat = np.zeros((8, 8), dtype=np.float32)
    page = overlay(Image.new("RGB", size, "green"), heat, title="<t1>", subtitle="a photo of a <t1>")
    scale = max(1, 256 / min(size))
    assert page.width >= 2 * size[0] * scale and page.height >= size[1] * scale


def test_the_hot_corner_is_the_brightest():
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[0, 3] = 1
    bright = np.asarray(blend(Image.new("RGB", (64, 64), "gray"), heat).convert("L"), dtype=int)
    assert bright[:8, -8:].mean() > 100 + bright[-8:, :8].mean()


def test_titles_with_letters_the_font_lacks_are_drawn_all_the_same():
    overlay(Image.new("RGB", (8, 8)), np.ones((2, 2), dtype=np.float32), title="<概念> é", subtitle="→ 🐯")
