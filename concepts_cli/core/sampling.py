"""From noise to pictures: diffusers' schedulers, our own loop, scores composed at every step.

Shapes: B images, K terms, C H W latents, T tokens, D text width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.core.scores import compose
from concepts_cli.data.images import to_image
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise_pred (B, C, H, W)


@dataclass(frozen=True)
class Term:
    """A prompt in a composition, and the weight of its score."""

    prompt: str
    weight: float


@dataclass(frozen=True)
class Request:
    """One image to be made: the terms of its score and its seed. A plain prompt is one term at the guidance scale."""

    terms: tuple[Term, ...]
    seed: int
    negative_prompt: str = ""


def guided(prompt: str, guidance_scale: float, seed: int, negative_prompt: str = "") -> Request:
    """A plain prompt under classifier-free guidance: a composition of one term."""
    return Request((Term(prompt, guidance_scale),), seed, negative_prompt)


def composed_scores(model: StableDiffusion, requests: Sequence[Request]) -> Predict:
    """The composed score of every request (eq. 11), with all terms and one unconditional score in a single UNet call.

    All requests have the same number of terms. Text is encoded here, once, and every sentence only once.
    """
    prompts = [prompt for r in requests for prompt in (r.negative_prompt, *(term.prompt for term in r.terms))]
    different = sorted(set(prompts))
    hidden = model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]  # (B * (1 + K), T, D)
    weights = torch.tensor([[term.weight for term in r.terms] for r in requests], device=model.device)
    calls = 1 + weights.shape[1]

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        stacked = model.predict(latents.repeat_interleave(calls, dim=0), timestep, hidden)
        scores = stacked.unflatten(0, (len(requests), calls))
        return compose(scores[:, 0], scores[:, 1:], weights)

    return predict


def seeded_noise(model: StableDiffusion, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal latents (B, C, H, W), each from its own CPU generator: the same in any batch, on any device."""
    draws = [torch.randn(model.latent_shape(), generator=generator) for generator in generators]
    return torch.stack(draws).to(model.device)


@torch.no_grad()
def denoise(
    scheduler, latents: Tensor, predict: Predict, num_inference_steps: int, generators=None
) -> Iterator[Tensor]:
    """Latents (B, C, H, W) after every denoising step, the last ones clean. `latents` are standard normal.

    `generators`, one an image, feed the schedulers that add noise on the way.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    latents = latents * scheduler.init_noise_sigma
    extra = {"generator": generators} if generators is not None and _takes_generator(scheduler) else {}
    for timestep in scheduler.timesteps:
        noise_pred = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
        yield latents


@torch.no_grad()
def generate(
    model: StableDiffusion,
    requests: Sequence[Request],
    *,
    num_inference_steps: int,
    scheduler: str = "ddim",
    batch_size: int = 8,
) -> Iterator[Image.Image]:
    """A picture for every request, in order, `batch_size` at a time; requests of unlike term counts apart.

    Raises UcdError for more steps than the model has.
    """
    most = model.scheduler_config["num_train_timesteps"]
    if num_inference_steps > most:
        raise UcdError(f"got {num_inference_steps} denoising steps", f"this model has {most} at most")
    start = 0
    while start < len(requests):
        count = len(requests[start].terms)
        batch = [requests[start]]
        for request in requests[start + 1 : start + batch_size]:
            if len(request.terms) != count:
                break
            batch.append(request)
        generators = [torch.Generator().manual_seed(request.seed) for request in batch]
        latents = seeded_noise(model, generators)
        predict = composed_scores(model, batch)
        *_, clean = denoise(model.scheduler(scheduler), latents, predict, num_inference_steps, generators)
        yield from map(to_image, model.decode(clean))
        start += len(batch)


def _takes_generator(scheduler) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
