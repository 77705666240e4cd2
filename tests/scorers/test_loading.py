"""Every image once, in order, however they are read."""

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.errors import UcdError
from concepts_cli.scorers.loading import batches


def transform(image):
    return torch.tensor(image.getpixel((0, 0)))[:, None, None]


@pytest.fixture
def many(tmp_path):
    paths = [tmp_path / f"{n:03d}.png" for n in range(23)]
    for n, path in enumerate(paths):
        Image.new("RGB", (4, 4), (n, 2 * n, 3 * n)).save(path)
    return paths


@pytest.mark.parametrize("size", [1, 5, 23, 64])
def test_order_and_sizes(many, size):
    found = list(batches(many, transform, size))
    assert [len(part) for part in found] == [size] * (23 // size) + [23 % size] * bool(23 % size)
    assert torch.cat(found)[:, 0, 0, 0].tolist() == list(range(23))
    assert list(batches([], transform, size)) == []


def test_an_image_that_cannot_be_read_is_named(many):
    many[7].write_bytes(b"")
    parts = batches(many, transform, 5)
    assert len(next(parts)) == 5
    with pytest.raises(UcdError, match="007.png"):
        next(parts)


def test_one_who_stops_early_leaves_no_thread_waiting(many):
    parts = batches(many, transform, 2)
    np.testing.assert_array_equal(next(parts)[:, 1, 0, 0], [0, 2])
    parts.close()
