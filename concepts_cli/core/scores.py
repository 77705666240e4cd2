"""Composed scores: the equation at the heart of the method.

Shapes: B images, K concepts, C H W latents. "Score" is what the model predicts (noise, velocity or flow): each is
affine in the score, so eq. 11 composes them all alike.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import DiffusionModel


def compose(uncond: Tensor, conditional: Tensor, weights: Tensor) -> Tensor:
    """Eq. 11 of Liu et al. 2023: `uncond + sum_k w_k (cond_k - uncond)`.

    Shapes: uncond (B, C, H, W), conditional (B, K, C, H, W), weights (B, K), or (B, K, H, W) if a concept acts only in
    part of the image -> (B, C, H, W). Guidance is K = 1 with w the guidance scale; if the weights sum to 1, the
    unconditional score cancels.
    """
    return uncond + weighted_sum(conditional - uncond[:, None], weights)


def weighted_sum(conditional: Tensor, weights: Tensor) -> Tensor:
    """`sum_k w_k cond_k`: eq. 11 for weights that sum to 1. (B, K, C, H, W), (B, K) or (B, K, H, W) -> (B, C, H, W)."""
    return torch.einsum("bk,bkchw->bchw" if weights.ndim == 2 else "bkhw,bkchw->bchw", weights, conditional)


def stacked_scores(model: DiffusionModel, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
    """All K conditional scores of every image, in one model call.

    `conditioning` has B * K rows, those of an image side by side. (B, C, H, W), (B,) -> (B, K, C, H, W).
    """
    count = len(conditioning) // len(noisy)
    stacked = model.predict(noisy.repeat_interleave(count, dim=0), times.repeat_interleave(count), conditioning)
    return stacked.unflatten(0, (-1, count))


def checkpointed_scores(model: DiffusionModel, noisy: Tensor, times: Tensor, prompts: Tokens, index: Tensor) -> Tensor:
    """The same, one concept at a time, recomputed in the backward pass; `index` (B, K) are rows of `prompts`.

    Peak memory then doesn't grow with K, at the cost of one more forward pass.
    """

    def score(rows: Tensor) -> Tensor:  # (B,) -> (B, C, H, W)
        return model.predict(noisy, times, model.encode(prompts[rows]))

    scores = [checkpoint(score, rows, use_reentrant=False, preserve_rng_state=False) for rows in index.unbind(1)]
    return torch.stack(scores, dim=1)
