"""Aspect-ratio buckets: training pictures that are not all square, in a few sizes of about the same area."""

from __future__ import annotations

import math
from functools import lru_cache

STEPS = 8  # of a side, from one size to the next
MOST_STRETCHED = 2  # times the resolution: the longest side


@lru_cache
def buckets(resolution: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """The sizes (width, height) in pixels that pictures may have, from tall to wide: `resolution`² pixels or a little
    less, with sides that are multiples of `multiple`.
    """
    step = max(resolution // STEPS // multiple, 1) * multiple
    shorter = range(resolution, resolution // MOST_STRETCHED - 1, -step)
    tall = {(side, resolution**2 // side // step * step) for side in shorter if side % step == 0} | {(resolution,) * 2}
    return tuple(sorted(tall | {(height, width) for width, height in tall}))


@lru_cache(maxsize=4096)
def bucket(width: int, height: int, resolution: int, multiple: int) -> tuple[int, int]:
    """The size in pixels whose aspect ratio is nearest to that of an image of `width` x `height`."""
    aspect = math.log(width / height)
    return min(buckets(resolution, multiple), key=lambda size: abs(math.log(size[0] / size[1]) - aspect))


def training_size(
    width: int, height: int, *, resolution: int, resize: str = "squash", multiple: int = 1
) -> tuple[int, int]:
    """The size (width, height) that an image is trained at: a square of `resolution`, or its bucket."""
    return bucket(width, height, resolution, multiple) if resize == "bucket" else (resolution, resolution)
