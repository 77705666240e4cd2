"""Photographs are told from drawings."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.data.looks import are_photographs
from concepts_cli.mini.sets import NAMES, write_set


@pytest.mark.parametrize("name", NAMES)
def test_the_built_in_scenes_are_drawings(tmp_path, name):
    assert not are_photographs(write_set(name, tmp_path, seed=7))


def test_photographs_are_photographs(tmp_path):
    """The two that scikit-learn comes with, whole and in parts."""
    import sklearn.datasets

    paths = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    assert are_photographs(paths)
    parts = []
    for path in paths:
        for left in (0, 200, 400):
            parts.append(tmp_path / f"{path.stem}-{left}.png")
            Image.open(path).crop((left, 100, left + 200, 300)).save(parts[-1])
    assert are_photographs(parts)


def test_one_colour_is_a_drawing_and_nothing_is_no_photograph(tmp_path):
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "plain.png")
    assert not are_photographs([tmp_path / "plain.png"]) and not are_photographs([])
