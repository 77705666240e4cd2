"""Heat maps of concepts in images: a word's attention, and which concept's score explains which place.

Shapes: B images, K subjects, C H W latents, T tokens. A real image is inverted to noise, and its attention is recorded
while it is reconstructed; a generated image's is recorded while it is generated.
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

CORRECTIONS = {"ddim": 0, "fixed-point": 1}  # per step of an inversion
LEVELS = 10  # noise levels at which scores are compared


@dataclass(frozen=True)
class Subject:
    """What a map shows: a word, and a prompt about nothing else."""

    word: str
    prompt: str


def tokens_of(model: DiffusionModel, prompt: str, subject: Subject, *, word_only: bool = False) -> list[int]:
    """The tokens of `prompt` whose attention shows where the subject is.

    In a causal text encoder, every token after a word has read it, unless it is a concept at the encoder's output. In
    the subject's own prompt, all tokens from its word on count, including the end of the text and its padding, which
    know most about the picture; in any other prompt, with `word_only`, or if the model's maps are of words, only the
    word itself. Raises UcdError if the word is not in the prompt.
    """
    positions = model.positions(prompt, subject.word)
    if not positions:
        where = "part of the prompt that the model reads" if model.is_truncated(prompt) else "prompt"
        raise UcdError(f"{subject.word!r} is not in the {where}: {prompt!r}", "name a word of the prompt")
    word_only = word_only or attention_of(model).of_words
    if prompt == subject.prompt and model.is_causal and model.where == "input" and not word_only:
        return list(range(positions[0], model.max_tokens))
    return positions


def attention_of(model: DiffusionModel) -> AttentionProbe:
    """The model's attention probe. Raises UcdError if it has none."""
    if model.attention is None:
        raise UcdError(
            f"{model.name} doesn't expose its attention, so it has no heat maps", "use a run of another model"
        )
    return model.attention


def encoded(model: DiffusionModel, pixels: Tensor, *, seed: int | None = None) -> Tensor:
    """The latents (B, C, h, w) of pixels (B, 3, H, W) in [-1, 1]: their mean, or a sample if there is a `seed`.

    All images have the same noise, so that one's latents don't depend on the others.
    """
    mean, deviation = model.encode_images(pixels)
    if seed is None:
        return mean
    noise = torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed))
    return mean + deviation * noise.to(mean)


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
    """Turn latents into noise and back, each under its own prompt, and record the attention on the way back.

    Shapes: latents (B, C, H, W), B prompts -> attention (B, T, H, W), reconstructed latents (B, C, H, W). An image is
    repeated for each of its prompts. The inversion has a guidance of 1, as published (Mokady et al., *Null-text
    Inversion*, CVPR 2023), except `fixed-point`, which has the reconstruction's guidance and undoes it.
    """
    inversion_scale = guidance_scale if inversion == "fixed-point" else 1.0
    inversion_scores, reconstruction_scores = (
        _scores(model, prompts, scale) for scale in (inversion_scale, guidance_scale)
    )
    *_, noise = invert(model, latents, inversion_scores, num_inference_steps, corrections=CORRECTIONS[inversion])
    rows = slice(None) if guidance_scale == 1 else slice(1, None, 2)  # with guidance, each image has two rows
    height, width = latents.shape[-2:]
    with attention_of(model).record(rows=rows, selection=selection) as recorder:
        *_, clean = denoise(model.sampler(size=(height, width)), noise, reconstruction_scores, num_inference_steps)
    return recorder.maps(), clean


@torch.no_grad()
def score_gains(model: DiffusionModel, latents: Tensor, prompts: Sequence[str], *, seed: int = 0) -> Tensor:
    """How much each prompt improves the model's prediction at each place: (B, K, H, W).

    The squared error of the unconditional prediction minus that of the conditional one, (x - u)^2 - (x - c)^2, summed
    over channels and averaged over `LEVELS` noise levels: the training loss (eq. 10), for one concept at a time and not
    summed over the image. All prompts share the same noise; each level is one model call of K + 1 rows per image.
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
    """How much of each place each subject explains: gains (B, K, H, W) -> shares that sum to 1 over K, (B, K, H, W).

    A softmax over K of the gains, smoothed by a sixteenth of the map's longer side and divided by their own root mean
    square. A single subject has all of every place.
    """
    smooth = _blurred(gains, max(gains.shape[-2:]) / 16)
    scale = smooth.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=torch.finfo(gains.dtype).tiny)
    return (smooth / scale).softmax(dim=1)


def _scores(model: DiffusionModel, prompts: Sequence[str], guidance_scale: float) -> Predict:
    """Scores of one prompt per row; at a guidance of 1, only the conditional ones."""
    if guidance_scale != 1:
        return composed_scores(model, [guided(prompt, guidance_scale, seed=0) for prompt in prompts])
    different = list(dict.fromkeys(prompts))
    conditioning = model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
    return lambda latents, time: model.predict(latents, time, conditioning)


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """Blur (B, K, H, W) with a Gaussian of `sigma` places; edges are repeated."""
    reach = max(1, round(2 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    bell = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])[:, 0].unflatten(0, maps.shape[:2])
