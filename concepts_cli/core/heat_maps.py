"""Heat maps of concepts in images: attention of a word, and which concept's score explains which place.

Shapes: B images, K subjects, C H W latents, T tokens. A real image is inverted to noise, and attention is recorded
while it is made anew; a generated one is recorded while it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from concepts_cli.core.inversion import invert
from concepts_cli.core.sampling import Predict, composed_scores, denoise, guided
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import EVERYTHING, AttentionProbe, DiffusionModel, Selection

CORRECTIONS = {"ddim": 0, "fixed-point": 1}  # of each step of an inversion
LEVELS = 10  # noise levels at which scores are compared


@dataclass(frozen=True)
class Subject:
    """What a map is of: a word, and the prompt that says it and nothing else."""

    word: str
    prompt: str


def tokens_of(model: DiffusionModel, prompt: str, subject: Subject) -> list[int]:
    """The tokens of `prompt` whose attention says where the subject is.

    Under a causal text encoder what follows a word has read it. Where the prompt is the subject's own, everything from
    its word to the end then counts, the end of the text and its padding above all, which know what the picture is; in
    a prompt that says more, the word itself. Raises UcdError when the word is not there.
    """
    positions = model.positions(prompt, subject.word)
    if not positions:
        cut = " that the model reads" if model.is_truncated(prompt) else ""
        raise UcdError(f"{subject.word!r} is not in the prompt{cut}: {prompt!r}", "name a word of the prompt")
    if prompt == subject.prompt and model.is_causal:
        return list(range(positions[0], model.max_tokens))
    return positions


def attention_of(model: DiffusionModel) -> AttentionProbe:
    """The model's attention probe. Raises UcdError for a model that has none."""
    if model.attention is None:
        raise UcdError(f"{model.name} has no attention to draw heat maps of", "use a run of another model")
    return model.attention


def reconstruct(
    model: DiffusionModel,
    latents: Tensor,
    prompts: Sequence[str],
    *,
    num_inference_steps: int,
    guidance_scale: float = 1.0,
    inversion: str = "ddim",
    selection: Selection = EVERYTHING,
) -> tuple[Tensor, Tensor]:
    """Turn latents into noise and back, each under its own prompt, and record the way back.

    Shapes: latents (B, C, H, W), B prompts -> attention (B, T, H, W), reconstructed latents (B, C, H, W). An image
    comes once for each prompt. The way in has a guidance of 1, as published (Mokady et al., *Null-text Inversion*, CVPR
    2023), but for `fixed-point`, which has that of the way back and undoes it.
    """
    inward = guidance_scale if inversion == "fixed-point" else 1.0
    way_in, way_back = (_scores(model, prompts, scale) for scale in (inward, guidance_scale))
    *_, noise = invert(model, latents, way_in, num_inference_steps, corrections=CORRECTIONS[inversion])
    rows = slice(None) if guidance_scale == 1 else slice(1, None, 2)  # with guidance each has two rows
    with attention_of(model).record(rows=rows, selection=selection) as recorder:
        *_, clean = denoise(model.sampler(), noise, way_back, num_inference_steps)
    return recorder.maps(), clean


@torch.no_grad()
def score_gains(model: DiffusionModel, latents: Tensor, prompts: Sequence[str], *, seed: int = 0) -> Tensor:
    """How much nearer to the truth each prompt brings the model's prediction, place by place: (B, K, H, W).

    The squared error of the unconditional prediction less that of the conditional one, (x - u)^2 - (x - c)^2, over
    the channels and over `LEVELS` noise levels; the loss that concepts are learned by (eq. 10), one concept at a
    time and not summed over the image. The noise is the same for all prompts; K and the unconditional are one call
    of the model per level.
    """
    conditioning = model.encode_prompts(["", *prompts])
    calls = len(conditioning)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=latents.device)
    for level in range(LEVELS):
        time = model.noise.time(torch.tensor((level + 0.5) / LEVELS, dtype=torch.float64)).to(model.device)
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        noisy, truth = model.noise.example(latents, noise, time)
        stacked = noisy.repeat_interleave(calls, dim=0)
        predicted = model.predict(stacked, time, conditioning.repeat(len(latents)))
        errors = (predicted.unflatten(0, (len(latents), -1)) - truth[:, None]).square().sum(dim=2)
        total = total + errors[:, :1] - errors[:, 1:]
    return total / LEVELS


def shares(gains: Tensor) -> Tensor:
    """Which subject explains which place: (B, K, H, W) gains as shares of one, (B, K, H, W).

    A softmax over the K, of gains that are smoothed by a sixteenth of the map's width and taken in units of their own
    root mean square. One subject alone has all of every place.
    """
    smooth = _blurred(gains, max(gains.shape[-2:]) / 16)
    scale = smooth.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=torch.finfo(gains.dtype).tiny)
    return (smooth / scale).softmax(dim=1)


def _scores(model: DiffusionModel, prompts: Sequence[str], guidance_scale: float) -> Predict:
    """Scores of a prompt a row; at a guidance of 1 the conditional ones alone."""
    if guidance_scale != 1:
        return composed_scores(model, [guided(prompt, guidance_scale, seed=0) for prompt in prompts])
    different = list(dict.fromkeys(prompts))
    conditioning = model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
    return lambda latents, time: model.predict(latents, time, conditioning)


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """(B, K, H, W) under a Gaussian of that many places; edges are repeated."""
    reach = max(1, round(2 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    bell = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])[:, 0].unflatten(0, maps.shape[:2])
