"""Whether images are photographs or drawings, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from concepts_cli.data.images import open_image

SIDE, LEVELS, COMMON = 64, 32, 3  # px, of each colour channel, colours
LOOKED_AT = 50  # images
OF_A_DRAWING = 0.27  # the built-in scenes have 0.5 and more, photographs from 0.05 to 0.2


def are_photographs(paths: Sequence[Path]) -> bool:
    """Whether these images, or some of many, have the many colours of photographs rather than a drawing's few.

    Raises UcdError for one that can't be read.
    """
    some = paths[:: max(1, len(paths) // LOOKED_AT)]
    return bool(some) and sum(map(_plainness, some)) / len(some) < OF_A_DRAWING


def _plainness(path: Path) -> float:
    """The share of an image that has one of its three most common colours."""
    image = open_image(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    colours = np.asarray(image, dtype=np.uint32) * LEVELS // 256 @ np.array([LEVELS**2, LEVELS, 1], dtype=np.uint32)
    return float(np.sort(np.bincount(colours.ravel()))[-COMMON:].sum() / colours.size)
