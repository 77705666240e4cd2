"""Corrector steps: Langevin steps at one noise level, towards the product of an image's terms at that level.

Without noise, the sum of scores (eq. 11) is the score of the product of the terms' distributions. With noise, it is not
the score of the noisy product, so denoising along the sum doesn't sample the product (Du et al., *Reduce, Reuse,
Recycle*, ICML 2023, section 3). Langevin steps at each level correct this: they converge to the distribution whose
score they follow.

Shapes: B images, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concepts_cli.models.noise import Noise

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), time ()) -> prediction (B, C, H, W)


@dataclass(frozen=True)
class Langevin:
    """`steps` unadjusted Langevin steps before each denoising step.

    `step_size` is relative to the variance of the noise in the latents, so one size suits every level. Each image's
    fresh noise comes from its own generator. `process` is the model's noise.
    """

    steps: int
    step_size: float
    generators: Sequence[torch.Generator]
    process: Noise

    def __call__(self, latents: Tensor, time: Tensor, predict: Predict) -> Tensor:
        """Take the steps from latents (B, C, H, W), staying at their noise level.

        The score is `-noise / spread` (Song et al. 2021, eq. 9).
        """
        _, spread = self.process.levels(time)
        size = self.step_size * spread**2
        for _ in range(self.steps):
            _, noise = self.process.split(predict(latents, time), latents, time)
            fresh = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in self.generators])
            latents = latents - size / spread * noise + (2 * size).sqrt() * fresh.to(latents)
        return latents


def corrector_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per image, apart from that of its initial noise: without correctors, images don't change."""
    return [torch.Generator().manual_seed(2**33 + seed) for seed in seeds]
