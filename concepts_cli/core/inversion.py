"""Real images as noise that a model turns back into them: DDIM inversion (Song et al., *Denoising Diffusion Implicit
Models*, ICLR 2021, section 4.3).

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
    """Latents (B, C, H, W) after every step from clean to noise; `denoise` with the model's first sampler goes back.

    A step asks for the noise at the level that it goes to, of latents that are still at the level below, and there lies
    its error. Each correction takes the step again with the noise predicted where the last one led: where that settles,
    the way back is exact, under guidance too (the fixed point of Pan et al., *Effective Real Image Editing with
    Accelerated Iterative Diffusion Inversion*, ICCV 2023). For a flow the steps are Euler's.
    """
    process = model.noise
    for below, time in model.sampler().ascent(num_inference_steps, latents.device):
        clean, noise = process.split(predict(latents, time), latents, below)
        raised = process.add(clean, noise, time)
        for _ in range(corrections):
            raised = process.undo_step(predict(raised, time), raised, time, latents, below)
        latents = raised
        yield latents
