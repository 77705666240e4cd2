"""Turn real images into noise that the model turns back into them: DDIM inversion (Song et al., *Denoising Diffusion
Implicit Models*, ICLR 2021, section 4.3).

Shapes: B images, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from concepts_cli.core.sampling import Predict
from concepts_cli.models.interface import DiffusionModel


@torch.no_grad()
def invert(
    model: DiffusionModel, latents: Tensor, predict: Predict, num_inference_steps: int, *, corrections: int = 0
) -> Iterator[Tensor]:
    """Yield latents (B, C, H, W) after each step from clean to noise; the model's first sampler undoes it.

    A step needs the noise prediction at its target level, but its latents are still at the level below: that is its
    error. Each correction repeats the step with the noise predicted at its result. Once that converges, the way back is
    exact, under guidance too (the fixed point of Pan et al., *Effective Real Image Editing with Accelerated Iterative
    Diffusion Inversion*, ICCV 2023). For a flow, these are Euler steps.
    """
    process, (height, width) = model.noise, latents.shape[-2:]
    sampler = model.sampler(size=(height, width))
    for below, time in sampler.ascent(num_inference_steps, latents.device):
        clean, noise = process.split(predict(latents, time), latents, below)
        raised = process.add(clean, noise, time)
        for _ in range(corrections):
            raised = process.undo_step(predict(raised, time), raised, time, latents, below)
        latents = raised
        yield latents
