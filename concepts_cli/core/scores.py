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

    Shapes: uncond (B, C, H, W), conditional (B, K, C, H, W), weights (B, K), or (B, K, H, W) where a concept acts in a
    part of the image only -> (B, C, H, W). Guidance is K = 1 with w the guidance scale; weights that sum to 1 leave no
    unconditional score in it.
    """
    return uncond + weighted_sum(conditional - uncond[:, None], weights)


def weighted_sum(conditional: Tensor, weights: Tensor) -> Tensor:
    """`sum_k w_k cond_k`: eq. 11 for weights that sum to 1. (B, K, C, H, W), (B, K) or (B, K, H, W) -> (B, C, H, W)."""
    return torch.einsum("bk,bkchw->bchw" if weights.ndim == 2 else "bkhw,bkchw->bchw", weights, conditional)


def stacked_scores(model: StableDiffusion, noisy_latents: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
    """All K conditional scores of every image, in one UNet call: hidden (B, K, T, D) -> (B, K, C, H, W)."""
    count = hidden.shape[1]
    stacked = model.predict(
        noisy_latents.repeat_interleave(count, dim=0), timesteps.repeat_interleave(count), hidden.flatten(0, 1)
    )
    return stacked.unflatten(0, (-1, count))


def checkpointed_scores(model: StableDiffusion, noisy_latents: Tensor, timesteps: Tensor, input_ids: Tensor) -> Tensor:
    """The same from token ids (B, K, T), a concept at a time, text and all recomputed in the backward pass.

    Peak memory then does not grow with K, for one more forward pass.
    """

    def score(ids: Tensor) -> Tensor:  # (B, T) -> (B, C, H, W)
        return model.predict(noisy_latents, timesteps, model.text_encoder(ids)[0])

    scores = [checkpoint(score, ids, use_reentrant=False, preserve_rng_state=False) for ids in input_ids.unbind(1)]
    return torch.stack(scores, dim=1)
