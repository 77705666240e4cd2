"""Turn recorded attention into maps of words.

Shapes: T tokens, (H, W) the latents' size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_map(maps: Tensor, positions: Sequence[int]) -> Tensor:
    """The mean map of a word's tokens: maps (T, H, W) of one image -> (H, W)."""
    return maps[list(positions)].mean(dim=0)


def normalise(heat: Tensor) -> Tensor:
    """Scale maps (..., H, W) for display: the least attended place is 0, the most attended 1; constant maps are 0."""
    low, high = heat.amin(dim=(-2, -1), keepdim=True), heat.amax(dim=(-2, -1), keepdim=True)
    return (heat - low) / (high - low).clamp(min=torch.finfo(heat.dtype).tiny)
