"""Contact sheets: everything is on them, and nothing is squeezed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from concepts_cli.drawing.contact_sheet import contact_sheet, overview


def squares(count: int, size=(64, 64)) -> list[Image.Image]:
    return [Image.new("RGB", size, (255, 0, 0)) for _ in range(count)]


def red(page: Image.Image) -> int:
    return int((np.asarray(page) == (255, 0, 0)).all(axis=-1).sum())


def test_every_picture_is_on_the_sheet():
    page = contact_sheet({"t1": squares(16), "t2": squares(3)})
    assert red(page) == 19 * 112 * 112
    assert page.width < 10 * 118  # two lines of eight


def test_pictures_keep_their_proportions_and_large_ones_more_of_their_size():
    page = contact_sheet({"": squares(1, (512, 256))}, title="wide")
    assert red(page) == 224 * 112


def test_long_labels_and_titles_are_cut_to_fit():
    plain = contact_sheet({"": squares(2)}, title="t1")
    long = contact_sheet({"": squares(2)}, title="word " * 1000, headings=["0.25", "a long heading " * 9])
    assert long.width == plain.width
    wide = contact_sheet({"a prompt of many words " * 50: squares(2), "t2": squares(2)})
    assert wide.width < plain.width + 200 and red(wide) == red(plain) * 2


def test_an_overview_says_how_many_samples_it_leaves_out():
    images = squares(25)
    page = overview(images, {"t1": squares(16)}, total=25)
    few = overview(images, {"t1": squares(10)}, total=25)
    assert page.size == few.size and page.tobytes() != few.tobytes()
