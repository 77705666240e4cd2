"""Colours that a reader can trust, and pages of the right size."""

import numpy as np
import pytest
from PIL import Image

from concepts_cli.drawing.overlay import blend, colours, mask, numbers, overlay, sheet


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


@pytest.mark.parametrize("size", [(64, 64), (300, 300), (48, 96), (2000, 10), (5000, 4000)])
def test_pictures_are_brought_to_a_size_to_look_at_and_the_map_lies_beside_them(size):
    heat = np.zeros((8, 8), dtype=np.float32)
    page, boxes = overlay(Image.new("RGB", size, "green"), heat, title="<t1>", subtitle="a photo of a <t1>")
    assert page.width < 2200 and page.height < 1200
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= page.width and 0 <= top < bottom <= page.height
        assert max(right - left, bottom - top) <= 1024
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.2)
    middle = [page.getpixel(((left + right) // 2, (top + bottom) // 2)) for left, top, right, bottom in boxes]
    assert middle[0] == (0, 128, 0) != middle[1]


def test_another_picture_goes_between():
    red = Image.new("RGB", (8, 8), "red")
    page, boxes = overlay(
        Image.new("RGB", (8, 8)), np.zeros((4, 4)), title="<t1>", extra=(red, "reconstruction, error 0.1")
    )
    assert page.getpixel((boxes[0][2] + 20, boxes[0][1] + 20)) == (255, 0, 0)


def test_a_map_in_numbers():
    heat = np.zeros((4, 8))
    heat[1, 6] = 0.5
    found = numbers(heat, heat * 2, threshold=0.9)
    assert found == {"mean": 0.5 / 32, "peak": 0.5, "center": (6.5 / 8, 1.5 / 4), "coverage": 1 / 32}
    assert numbers(np.zeros((2, 2)), np.zeros((2, 2)), 0.5)["center"] == (0.5, 0.5)


def test_a_mask_has_the_pictures_size_and_two_values():
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[:, :2] = 1
    made = np.asarray(mask(heat, (40, 20), 0.5))
    assert made.shape == (20, 40) and set(np.unique(made)) == {0, 255}
    assert made[:, :15].all() and not made[:, 25:].any()


def test_a_sheet_has_room_for_its_longest_row_and_any_caption():
    picture = Image.new("RGB", (300, 20), "blue")
    page = sheet([[(picture, "x" * 200)], [(picture, "a"), (picture, "b"), (picture, "c")]])
    assert page.width > 3 * 128 and page.height > 2 * 128


def test_the_hot_corner_is_the_brightest():
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[0, 3] = 1
    bright = np.asarray(blend(Image.new("RGB", (64, 64), "gray"), heat).convert("L"), dtype=int)
    assert bright[:8, -8:].mean() > 100 + bright[-8:, :8].mean()


def test_titles_with_letters_the_font_lacks_are_drawn_all_the_same():
    overlay(Image.new("RGB", (8, 8)), np.ones((2, 2), dtype=np.float32), title="<概念> é", subtitle="→ 🐯")
