"""Scores composed: the equation that the whole project turns on.

Shapes: B images, K concepts, C H W latents, T tokens, D text width. "Score" is what the UNet predicts, noise or
velocity: both are affine in the score, and composing either by eq. 11 is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from concepts_cli.models.stable_diffusion import StableDiffusion


def compose(uncond: Tensor, conditional: Tensor, weights: Tensor) -> Tensor:
    """Eq. 11 of Liu et al. 2023: `uncond + sum_k w_k (cond_k - uncond)`.

    Shapes: uncond (B, C, H, W), conditional (B, K, C, H, W), weights (B, K) -> (B, C, H, W). Guidance is K = 1 with w
    the guidance scale; weights that sum to 1 leave no unconditional score in it.
    """
    return uncond + torch.einsum("bk,bkchw->bchw", weights, conditional - uncond[:, None])


def stacked_scores(
    model: StableDiffusion, noisy_latents: Tensor, timesteps: Tensor, hidden: Tensor, *, checkpointed: bool = False
) -> Tensor:
    """All K conditional scores of every image, in one UNet call: hidden (B, K, T, D) -> (B, K, C, H, W).

    With `checkpointed` the calls are one a concept, each recomputed in the backward pass: peak memory then does not
    grow with K, for one more forward pass.
    """
    count = hidden.shape[1]
    if checkpointed:
        scores = [
            checkpoint(model.predict, noisy_latents, timesteps, hidden[:, k], use_reentrant=False) for k in range(count)
        ]
        return torch.stack(scores, dim=1)
    stacked = model.predict(
        noisy_latents.repeat_interleave(count, dim=0), timesteps.repeat_interleave(count), hidden.flatten(0, 1)
    )
    return stacked.unflatten(0, (-1, count))
