"""Latents without a model and without files."""

from __future__ import annotations

from torch import Tensor


class HeldLatents:
    """Latents in memory: means and deviations, (O, N, C, h, w) each; O is 2 with mirror images, else 1.

    Masks are (N, 1, h, w).
    """

    def __init__(self, mean: Tensor, std: Tensor, masks: Tensor | None = None):
        self.mean, self.std, self.masks = mean, std, masks
        self.masked = masks is not None

    def __len__(self) -> int:
        return self.mean.shape[1]

    def mask(self, row: int, *, mirrored: bool = False) -> Tensor:
        return self.masks[row].flip(-1) if mirrored else self.masks[row]

    def moments(self, row: int, *, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        side = int(mirrored and len(self.mean) == 2)
        return self.mean[side, row], self.std[side, row]

    def shape(self, row: int) -> tuple[int, int, int]:
        return tuple(self.mean.shape[2:])


class MixedLatents(HeldLatents):
    """Odd images have only the first half of their rows: latents of two sizes."""

    def shape(self, row: int) -> tuple[int, int, int]:
        return tuple(self.moments(row)[0].shape)

    def moments(self, row: int, *, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        mean, std = super().moments(row, mirrored=mirrored)
        height = mean.shape[1] // (1 + row % 2)
        return mean[:, :height], std[:, :height]
