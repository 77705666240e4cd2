"""Aspect-ratio buckets: few sizes, each of about the same area, and an image goes to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from concepts_cli.data.buckets import bucket, buckets
from concepts_cli.data.images import to_pixels


@pytest.mark.parametrize(
    ("resolution", "multiple"), [(512, 8), (768, 8), (1024, 8), (1024, 16), (64, 8), (64, 16), (32, 2), (8, 8)]
)
def test_sizes_fit_the_model_and_its_memory(resolution, multiple):
    sizes = buckets(resolution, multiple)
    assert (resolution, resolution) in sizes and len(sizes) <= 9
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert 0.75 * resolution**2 <= width * height <= resolution**2
        assert (height, width) in sizes


@pytest.mark.parametrize(
    ("image", "size"),
    [
        ((3000, 2000), (640, 384)),
        ((2000, 3000), (384, 640)),
        ((4032, 3024), (576, 448)),
        ((1000, 990), (512, 512)),
        ((50_000, 10), (1024, 256)),
        ((1, 1), (512, 512)),
    ],
)
def test_an_image_goes_to_the_nearest_shape(image, size):
    assert bucket(*image, 512, 8) == size


def test_a_bucket_keeps_more_of_an_image_than_a_square():
    wide = np.zeros((60, 100, 3), np.uint8)
    wide[:, 10:90] = 255
    pixels = to_pixels(Image.fromarray(wide), 64, "bucket", 8)
    assert pixels.shape == (3, 48, 80)
    assert pixels[:, :, 0].max() < 0 < pixels[:, :, 10].min()  # the margin is there
    assert to_pixels(Image.fromarray(wide), 64, "crop").shape == (3, 64, 64)
