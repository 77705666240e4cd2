"""Optional loss terms that keep concepts apart, as in the authors' published trainer.

Shapes: B images, K concepts, C H W latents, D embedding width. With K = 1, terms over pairs are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.recipe import RegularizerSettings

NEAREST = 1e-6  # smallest distance or angle, so that identical concepts don't give infinity


def regularization(
    settings: RegularizerSettings, scores: Tensor, weights: Tensor, embeddings: Tensor
) -> dict[str, Tensor]:
    """The terms with a coefficient, by their setting's name, each multiplied by it.

    Shapes: scores (B, K, C, H, W), weights (B, K), embeddings (K, D).
    """
    terms = {}
    if settings.score_similarity or settings.score_energy:
        if settings.weighted_scores:
            scores = scores * weights[:, :, None, None, None]
        flat = scores.flatten(2)  # (B, K, CHW)
        if settings.normalize_scores:
            flat = F.normalize(flat, dim=2)
        if settings.score_similarity:
            terms["score_similarity"] = settings.score_similarity * similarity(flat, square=settings.square_similarity)
        if settings.score_energy:
            terms["score_energy"] = settings.score_energy * energy(flat, settings.energy)
    if settings.token_repulsion:
        words = F.normalize(embeddings, dim=1) if settings.normalize_scores else embeddings
        terms["token_repulsion"] = settings.token_repulsion * energy(words[None], "log")
    if settings.token_similarity:
        dots = _pairs(embeddings @ embeddings.T)
        terms["token_similarity"] = settings.token_similarity * _mean(dots.square())
    if settings.token_distance:
        terms["token_distance"] = settings.token_distance * energy(embeddings[None], "euclidean")
    if settings.token_norm:
        terms["token_norm"] = settings.token_norm * embeddings.norm(dim=1).mean()
    return terms


def similarity(vectors: Tensor, *, square: bool = False) -> Tensor:  # (B, K, M) -> ()
    """Dot products of pairs, divided by their length M: the mean, or with `square` the root of the sum of squares."""
    dots = _pairs(vectors @ vectors.transpose(1, 2)) / vectors.shape[2]
    if not square:
        return _mean(dots)
    total = dots.square().sum()
    return total.clamp(min=NEAREST**2).sqrt()


def energy(vectors: Tensor, kind: str) -> Tensor:  # (B, K, M) -> ()
    """Hyperspherical energy (Liu et al., *Learning towards Minimum Hyperspherical Energy*, NeurIPS 2018) of pairs.

    `euclidean` is the mean of 1 / distance, `log` of log(1 / distance), `arccos` of log(1 / angle), with vectors
    scaled to length 1.
    """
    if kind == "arccos":
        unit = F.normalize(vectors, dim=2)
        cosines = _pairs(unit @ unit.transpose(1, 2)).clamp(-1 + NEAREST, 1 - NEAREST)
        return _mean(-cosines.acos().log())
    first, second = _indices(vectors.shape[1], vectors.device)
    distances = (vectors[:, first] - vectors[:, second]).norm(dim=2).clamp(min=NEAREST)
    return _mean(1 / distances if kind == "euclidean" else -distances.log())


def _pairs(matrices: Tensor) -> Tensor:  # (..., K, K) -> (..., pairs), each pair once
    first, second = _indices(matrices.shape[-1], matrices.device)
    return matrices[..., first, second]


def _indices(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return tuple(torch.triu_indices(count, count, offset=1, device=device))


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)
