"""Image files in batches for a scoring model, and what its library says when it can't be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.data.images import open_image

BATCH_SIZE = 64


def batches(
    paths: Sequence[Path], transform: Callable[[Image.Image], Tensor], batch_size: int = BATCH_SIZE
) -> Iterator[Tensor]:
    """Every image, as RGB and transformed, in stacks of (B, 3, H, W). Raises UcdError for one that can't be read."""
    for start in range(0, len(paths), batch_size):
        yield torch.stack([transform(open_image(path)) for path in paths[start : start + batch_size]])


def first_line(error: Exception) -> str:
    """The beginning of what a library says went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
