"""Image files in batches for a scoring model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.data.images import open_image

BATCH_SIZE = 64
BUILT_IN_CAVEAT = "the built-in judges were trained on scenes like these: don't compare their scores with other models'"
Transform = Callable[[Image.Image], Tensor]  # a picture -> (3, H, W)
READERS = min(8, os.cpu_count() or 1)  # threads: Pillow decodes and resizes without Python's lock


def batches(paths: Sequence[Path], transform: Transform, batch_size: int = BATCH_SIZE) -> Iterator[Tensor]:
    """All images, transformed, in batches of (B, 3, H, W); the next batch is read while the current one is scored.

    Raises UcdError for an image that can't be read.
    """
    chunks = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    pool = ThreadPoolExecutor(READERS)
    try:
        ahead = None
        for chunk in [*chunks, ()]:
            waiting, ahead = ahead, [pool.submit(lambda path: transform(open_image(path)), path) for path in chunk]
            if waiting:
                yield torch.stack([image.result() for image in waiting])
    finally:
        pool.shutdown(cancel_futures=True)
