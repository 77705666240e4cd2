"""Real images as noise that a model turns back into them: DDIM inversion (Song et al., *Denoising Diffusion Implicit
Models*, ICLR 2021, section 4.3).

Shapes: B images, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from concepts_cli.core.sampling import Predict


@torch.no_grad()
def invert(
    scheduler, latents: Tensor, predict: Predict, num_inference_steps: int, *, corrections: int = 0
) -> Iterator[Tensor]:
    """Latents (B, C, H, W) after every step from clean to noise; `denoise` with the same scheduler goes back.

    `scheduler` is a DDIM scheduler. A step asks for the noise at the level that it goes to, of latents that are still
    at the level below, and there lies its error. Each correction takes the step again with the noise predicted where
    the last one led: where that settles, the way back is exact, under guidance too (the fixed point of Pan et al.,
    *Effective Real Image Editing with Accelerated Iterative Diffusion Inversion*, ICCV 2023).
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    stride = scheduler.config.num_train_timesteps // num_inference_steps
    for timestep in scheduler.timesteps.flip(0):
        below, level = _alpha(scheduler, timestep - stride), _alpha(scheduler, timestep)
        clean, noise = split(scheduler, predict(latents, timestep), latents, below)
        raised = level.sqrt() * clean + (1 - level).sqrt() * noise
        for _ in range(corrections):
            # DDIM's step down, solved for where it started: the noise is predicted there.
            _, noise = split(scheduler, predict(raised, timestep), raised, level)
            clean = (latents - (1 - below).sqrt() * noise) / below.sqrt()
            raised = level.sqrt() * clean + (1 - level).sqrt() * noise
        latents = raised
        yield latents


def split(scheduler, prediction: Tensor, latents: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise that a prediction implies, (B, C, H, W) each; `alpha` is the product of 1 - beta.

    The prediction is noise or, for a v-prediction model, velocity (Salimans and Ho, ICLR 2022, appendix D).
    """
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return signal * latents - spread * prediction, signal * prediction + spread * latents
    return (latents - spread * prediction) / signal, prediction


def _alpha(scheduler, timestep: Tensor) -> Tensor:
    """The product of 1 - beta up to a timestep; the scheduler's last one before the first."""
    return (scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod).to(timestep.device)
