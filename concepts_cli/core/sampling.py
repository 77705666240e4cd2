"""From noise to pictures: diffusers' schedulers, our own loop, scores composed at every step.

Shapes: B images, K terms, C H W latents, T tokens, D text width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from concepts_cli.core.correctors import Langevin, corrector_generators
from concepts_cli.core.places import Place
from concepts_cli.core.scores import compose
from concepts_cli.data.images import to_image
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise_pred (B, C, H, W)
Texts = Mapping[tuple[str, str], Tensor]  # (run, prompt) -> hidden states (T, D)


@dataclass(frozen=True)
class Term:
    """A prompt in a composition, and the weight of its score.

    `run` names the taught_model of the prompt: "" is the first one, another a run whose concepts the prompt mentions.
    A term with a `place` acts there, one without everywhere.
    """

    prompt: str
    weight: float
    run: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class Request:
    """One image to be made: the terms of its score and its seed. A plain prompt is one term at the guidance scale."""

    terms: tuple[Term, ...]
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True)
class TaughtModel:
    """What reads a prompt: a model that is taught the words of one run before. Runs may share a model."""

    model: StableDiffusion
    teach: Callable[[StableDiffusion], None] = lambda model: None


def guided(prompt: str, guidance_scale: float, seed: int, negative_prompt: str = "") -> Request:
    """A plain prompt under classifier-free guidance: a composition of one term."""
    return Request((Term(prompt, guidance_scale),), seed, negative_prompt)


def composition(terms: Iterable[Term], seed: int, negative_prompt: str = "") -> Request:
    """The terms together; one of weight 0 is left out, and costs nothing. A place that is everywhere is none."""
    acting = (term for term in terms if term.weight)
    anywhere = (replace(term, place=None) if term.place and term.place.covers_everything else term for term in acting)
    return Request(tuple(anywhere), seed, negative_prompt)


def composed_scores(
    model: StableDiffusion | Mapping[str, TaughtModel], requests: Sequence[Request], texts: Texts | None = None
) -> Predict:
    """The composed score of every request (eq. 5 and 11): the mean of the models' unconditional scores, and the sum of
    every term's weight times its score's difference from its own model's unconditional one.

    A model is called once, with one unconditional row and then one a term, request after request. All requests have as
    many terms as the first, of the same runs. `texts` are encoded here unless given.
    """
    taught = _taught(model)
    texts = texts or encode_texts(taught, requests)
    runs = [term.run for term in requests[0].terms] or [""]
    parts = []  # a model, hidden (B * (1 + K'), T, D), weights (B, K') of its K' terms, and the terms
    for one in _different(taught[run].model for run in runs):
        unconditional = _unconditional(taught, one)
        mine = [[term for term in request.terms if taught[term.run].model is one] for request in requests]
        rows = [
            texts[key]
            for request, terms in zip(requests, mine, strict=True)
            for key in ((unconditional, request.negative_prompt), *((term.run, term.prompt) for term in terms))
        ]
        weights = torch.tensor([[term.weight for term in terms] for terms in mine], device=one.device)
        parts.append((one, torch.stack(rows), weights, mine))

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        composed = 0
        for one, hidden, weights, terms in parts:
            calls = 1 + weights.shape[1]
            stacked = one.predict(latents.repeat_interleave(calls, dim=0), timestep, hidden)
            scores = stacked.unflatten(0, (-1, calls))
            composed = composed + compose(scores[:, 0], scores[:, 1:], in_their_places(weights, terms, latents))
            if len(parts) > 1:
                composed = composed - (1 - 1 / len(parts)) * scores[:, 0]
        return composed

    return predict


def in_their_places(weights: Tensor, terms: Sequence[Sequence[Term]], latents: Tensor) -> Tensor:
    """Weights (B, K) as maps over the latents, (B, K, H, W), where a term has a place; otherwise as they are."""
    if not any(term.place for row in terms for term in row):
        return weights
    height, width = latents.shape[-2:]
    everywhere = torch.ones(height, width)
    maps = [[term.place.shares(height, width) if term.place else everywhere for term in row] for row in terms]
    return weights[..., None, None] * torch.stack([torch.stack(row) for row in maps]).to(weights)


@torch.no_grad()
def encode_texts(model: StableDiffusion | Mapping[str, TaughtModel], requests: Iterable[Request]) -> Texts:
    """Every sentence of the requests, encoded once."""
    taught = _taught(model)
    sentences: dict[str, dict[str, None]] = {run: {} for run in taught}  # in order, each once
    for request in requests:
        for term in request.terms:
            sentences[term.run][term.prompt] = None
        for run in [term.run for term in request.terms] or [""]:
            sentences[_unconditional(taught, taught[run].model)][request.negative_prompt] = None
    texts: dict[tuple[str, str], Tensor] = {}
    for run, prompts in sentences.items():
        if prompts:
            taught[run].teach(taught[run].model)
            hidden = taught[run].model.encode_prompts(list(prompts))
            texts |= {(run, prompt): one for prompt, one in zip(prompts, hidden, strict=True)}
    return texts


def seeded_noise(
    model: StableDiffusion,
    generators: Sequence[torch.Generator],
    *,
    height: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Standard normal latents (B, C, H, W), each from its own CPU generator: the same in any batch, on any device."""
    shape = model.latent_shape(height, width)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(model.device)


@torch.no_grad()
def denoise(
    scheduler,
    latents: Tensor,
    predict: Predict,
    num_inference_steps: int,
    generators=None,
    eta: float = 0,
    corrector: Langevin | None = None,
) -> Iterator[Tensor]:
    """Latents (B, C, H, W) after every denoising step, the last ones clean. `latents` are standard normal.

    `generators`, one an image, feed the schedulers that add noise on the way; `eta` is DDIM's (Song et al. 2021,
    eq. 16). The `corrector` takes its steps before each of these. Raises UcdError for an eta that the scheduler does
    not take, and for a corrector that doesn't go with it.
    """
    takes = inspect.signature(scheduler.step).parameters
    extra = {}
    if generators is not None and "generator" in takes:
        extra["generator"] = generators
    if eta:
        if "eta" not in takes:
            raise UcdError(f"eta is {eta:g}, and {type(scheduler).__name__} has none", "it is the ddim scheduler's")
        extra["eta"] = eta
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        if corrector:
            latents = corrector(scheduler, latents, timestep, predict)
        noise_pred = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
        yield latents


@torch.no_grad()
def generate(
    model: StableDiffusion | Mapping[str, TaughtModel],
    requests: Sequence[Request],
    *,
    num_inference_steps: int,
    scheduler: str = "ddim",
    eta: float = 0,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    corrector_steps: int = 0,
    corrector_step_size: float = 0.05,
) -> Iterator[Image.Image]:
    """A picture for every request, in order, `batch_size` at a time; requests of unlike term counts apart.

    Texts are encoded once, pictures decoded once. With several taught the first one's model starts from noise and
    decodes. Height and width are in pixels, by default the model's own. Raises UcdError for a size or a number of
    steps that the model can't do, and for models that don't go together.
    """
    taught = _taught(model)
    main = taught[""].model
    for other in _different(taught_model.model for taught_model in taught.values())[1:]:
        if reason := main.differs_from(other):
            raise UcdError(f"{main.name} and {other.name} can't be composed: {reason}")
    most = main.scheduler_config["num_train_timesteps"]
    if num_inference_steps > most:
        raise UcdError(f"got {num_inference_steps} denoising steps", f"this model has {most} at most")
    if any(side and side % main.vae_scale for side in (height, width)):
        raise UcdError(
            f"got {height or main.resolution} x {width or main.resolution} pixels",
            f"height and width are multiples of {main.vae_scale} for this model",
        )
    texts = encode_texts(taught, requests)
    start = 0
    while start < len(requests):
        batch = [requests[start]]
        for request in requests[start + 1 : start + batch_size]:
            if [term.run for term in request.terms] != [term.run for term in batch[0].terms]:
                break
            batch.append(request)
        generators = [torch.Generator().manual_seed(request.seed) for request in batch]
        latents = seeded_noise(main, generators, height=height, width=width)
        predict = composed_scores(taught, batch, texts)
        corrector = None
        if corrector_steps:
            fresh = corrector_generators([request.seed for request in batch])
            corrector = Langevin(corrector_steps, corrector_step_size, fresh, main.prediction_type)
        steps = denoise(
            main.scheduler(scheduler), latents, predict, num_inference_steps, generators, eta, corrector=corrector
        )
        *_, clean = steps
        yield from map(to_image, main.decode(clean))
        start += len(batch)


def _taught(model: StableDiffusion | Mapping[str, TaughtModel]) -> Mapping[str, TaughtModel]:
    return model if isinstance(model, Mapping) else {"": TaughtModel(model)}


def _different(models: Iterable[StableDiffusion]) -> list[StableDiffusion]:
    return list({id(model): model for model in models}.values())


def _unconditional(taught: Mapping[str, TaughtModel], model: StableDiffusion) -> str:
    """The run that a model's negative prompt is read with: the first of those that share it."""
    return next(run for run, taught_model in taught.items() if taught_model.model is model)
