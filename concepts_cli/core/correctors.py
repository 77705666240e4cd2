"""Corrector steps: they bring a picture nearer to the product of its terms at the noise level that it has.

The sum of scores (eq. 11) is the score of the product of the terms' distributions where there is no noise. Where there
is some, the noisy product is another, so going from level to level along the sum doesn't sample the product (Du et al.,
*Reduce, Reuse, Recycle*, ICML 2023, section 3). Langevin steps at each level do: their long run is the distribution
whose score they follow.

Shapes: B images, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concepts_cli.errors import UcdError

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> prediction (B, C, H, W)


@dataclass(frozen=True)
class Langevin:
    """`steps` unadjusted Langevin steps before each denoising step.

    A step is `step_size` times the variance of the noise in the latents, so one size suits every level. Each image's
    fresh noise comes from its own generator. `predicts` is what the model predicts: "epsilon" or "v_prediction".
    """

    steps: int
    step_size: float
    generators: Sequence[torch.Generator]
    predicts: str

    def __call__(self, scheduler: Any, latents: Tensor, timestep: Tensor, predict: Predict) -> Tensor:
        """The latents (B, C, H, W) after the steps, at the noise level that they had.

        The score is `-noise / sigma` (Song et al. 2021, eq. 9). Raises UcdError for a scheduler whose latents grow with
        the noise.
        """
        if scheduler.init_noise_sigma != 1:
            name = type(scheduler).__name__
            raise UcdError(f"corrector steps don't go with {name}", "use ddim, dpm++, ddpm, pndm, deis or unipc")
        signal = scheduler.alphas_cumprod.to(latents)[timestep.long()].sqrt()
        sigma = (1 - signal**2).sqrt()
        size = self.step_size * sigma**2
        for _ in range(self.steps):
            noise = predict(latents, timestep)
            if self.predicts == "v_prediction":  # Salimans & Ho 2022, section 4
                noise = signal * noise + sigma * latents
            fresh = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in self.generators])
            latents = latents - size / sigma * noise + (2 * size).sqrt() * fresh.to(latents)
        return latents


def corrector_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator per image, apart from the one of its first noise: without correctors nothing changes."""
    return [torch.Generator().manual_seed(2**33 + seed) for seed in seeds]
