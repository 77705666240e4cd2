"""From noise to pictures: the model's samplers, our own loop, scores composed at every step.

Shapes: B images, K terms, C H W latents.
"""

from __future__ import annotations

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
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel, Sampler
from concepts_cli.recipe import SampleSettings

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise_pred (B, C, H, W)
Texts = Mapping[tuple[str, str], Conditioning]  # (run, prompt) -> one row


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


@dataclass(frozen=True)
class TaughtModel:
    """What reads a prompt: a model that is taught the words of one run before. Runs may share a model."""

    model: DiffusionModel
    teach: Callable[[DiffusionModel], None] = lambda model: None


def guided(prompt: str, guidance_scale: float, seed: int) -> Request:
    """A plain prompt under classifier-free guidance: a composition of one term."""
    return Request((Term(prompt, guidance_scale),), seed)


def composition(terms: Iterable[Term], seed: int) -> Request:
    """The terms together; one of weight 0 is left out, and costs nothing. A place that is everywhere is none."""
    return Request(tuple(anywhere(term) for term in terms if term.weight), seed)


def anywhere(term: Term) -> Term:
    """The term without a place that covers the whole picture."""
    return replace(term, place=None) if term.place and term.place.covers_everything else term


def composed_scores(
    model: DiffusionModel | Mapping[str, TaughtModel],
    requests: Sequence[Request],
    negative_prompt: str = "",
    texts: Texts | None = None,
) -> Predict:
    """The composed score of every request (eq. 5 and 11): the mean of the models' unconditional scores, and the sum of
    every term's weight times its score's difference from its own model's unconditional one.

    A model is called once, with one unconditional row and then one a term, request after request. All requests have as
    many terms as the first, of the same runs. The unconditional score reads `negative_prompt`. `texts` are encoded
    here unless given.
    """
    taught = _taught(model)
    texts = texts or encode_texts(taught, requests, negative_prompt)
    runs = [term.run for term in requests[0].terms] or [""]
    parts = []  # a model, B * (1 + K') rows of conditioning, weights (B, K') of its K' terms, and the terms
    for one in _different(taught[run].model for run in runs):
        unconditional = _unconditional(taught, one)
        mine = [[term for term in request.terms if taught[term.run].model is one] for request in requests]
        rows = [
            texts[key]
            for terms in mine
            for key in ((unconditional, negative_prompt), *((term.run, term.prompt) for term in terms))
        ]
        weights = torch.tensor([[term.weight for term in terms] for terms in mine], device=one.device)
        parts.append((one, Conditioning.join(rows), weights, mine))

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        composed = torch.zeros((), device=latents.device)
        for one, conditioning, weights, terms in parts:
            calls = 1 + weights.shape[1]
            stacked = one.predict(latents.repeat_interleave(calls, dim=0), time, conditioning)
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
def encode_texts(
    model: DiffusionModel | Mapping[str, TaughtModel], requests: Iterable[Request], negative_prompt: str = ""
) -> Texts:
    """Every sentence of the requests and the negative prompt, encoded once."""
    taught = _taught(model)
    sentences: dict[str, dict[str, None]] = {run: {} for run in taught}  # in order, each once
    for request in requests:
        for term in request.terms:
            sentences[term.run][term.prompt] = None
        for run in [term.run for term in request.terms] or [""]:
            sentences[_unconditional(taught, taught[run].model)][negative_prompt] = None
    texts: dict[tuple[str, str], Conditioning] = {}
    for run, prompts in sentences.items():
        if prompts:
            taught[run].teach(taught[run].model)
            encoded = taught[run].model.encode_prompts(list(prompts))
            texts |= {(run, prompt): encoded[row : row + 1] for row, prompt in enumerate(prompts)}
    return texts


def seeded_noise(
    model: DiffusionModel,
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
    sampler: Sampler,
    latents: Tensor,
    predict: Predict,
    num_inference_steps: int,
    generators: Sequence[torch.Generator] | None = None,
    eta: float = 0,
    corrector: Langevin | None = None,
) -> Iterator[Tensor]:
    """Latents (B, C, H, W) after every denoising step, the last ones clean. `latents` are standard normal.

    `generators`, one per image, feed the samplers that add noise on the way; `eta` is DDIM's (Song et al. 2021,
    eq. 16). The `corrector` takes its steps before each of these. `check_settings` says whether an eta or a corrector
    goes with the sampler.
    """
    times = sampler.times(num_inference_steps, latents.device)
    latents = sampler.start(latents)
    for time in times:
        if corrector:
            latents = corrector(latents, time, predict)
        prediction = predict(sampler.model_input(latents, time), time)
        latents = sampler.step(prediction, time, latents, generators=generators, eta=eta)
        yield latents


@torch.no_grad()
def generate(
    model: DiffusionModel | Mapping[str, TaughtModel], requests: Sequence[Request], settings: SampleSettings
) -> Iterator[Image.Image]:
    """A picture for every request, in order, `settings.batch_size` at a time; requests of unlike term counts apart.

    Of the settings, guidance, seed and number of images are the requests' own, and precision the model's; all others
    are obeyed here. Texts are encoded once, pictures decoded once. With several taught the first one's model starts
    from noise and decodes. Raises what `check_settings` raises, and UcdError for models that don't go together.
    """
    taught = _taught(model)
    main = taught[""].model
    for other in _different(taught_model.model for taught_model in taught.values())[1:]:
        if reason := main.differs_from(other):
            raise UcdError(f"{main.name} and {other.name} can't be composed: {reason}")
    check_settings(main, settings)
    negative_prompt = settings.negative_prompt or ""
    texts = encode_texts(taught, requests, negative_prompt)
    start = 0
    while start < len(requests):
        batch = [requests[start]]
        for request in requests[start + 1 : start + settings.batch_size]:
            if [term.run for term in request.terms] != [term.run for term in batch[0].terms]:
                break
            batch.append(request)
        generators = [torch.Generator().manual_seed(request.seed) for request in batch]
        latents = seeded_noise(main, generators, height=settings.height, width=settings.width)
        predict = composed_scores(taught, batch, negative_prompt, texts)
        corrector = None
        if settings.corrector_steps:
            fresh = corrector_generators([request.seed for request in batch])
            corrector = Langevin(settings.corrector_steps, settings.corrector_step_size, fresh, main.noise)
        sampler = main.sampler(settings.scheduler)
        *_, clean = denoise(sampler, latents, predict, settings.steps, generators, settings.eta, corrector)
        yield from map(to_image, main.decode(clean))
        start += len(batch)


def check_settings(model: DiffusionModel, settings: SampleSettings) -> None:
    """Raise UcdError for a sampler that the model doesn't have, a number of steps or a size that it can't do, and for
    an eta or corrector steps that don't go with the sampler.
    """
    name, most = model.sampler_name(settings.scheduler), model.noise.max_steps
    sampler = model.sampler(name)
    if most is not None and settings.steps > most:
        raise UcdError(f"got {settings.steps} denoising steps", f"this model has {most} at most")
    model.check_size(settings.height, settings.width)
    if settings.eta and not sampler.takes_eta:
        raise UcdError(f"eta is {settings.eta:g}, and {name} has none", _others(model, lambda other: other.takes_eta))
    if settings.corrector_steps and not sampler.follows_process:
        hint = _others(model, lambda other: other.follows_process)
        raise UcdError(f"corrector steps don't go with {name}", hint)


def _others(model: DiffusionModel, fits: Callable[[Sampler], bool]) -> str:
    """A hint that names the model's samplers that fit."""
    names = [name for name in model.samplers if fits(model.sampler(name))]
    return f"use {' or '.join(names)}" if names else f"no sampler of {model.name} does"


def _taught(model: DiffusionModel | Mapping[str, TaughtModel]) -> Mapping[str, TaughtModel]:
    return model if isinstance(model, Mapping) else {"": TaughtModel(model)}


def _different(models: Iterable[DiffusionModel]) -> list[DiffusionModel]:
    return list({id(model): model for model in models}.values())


def _unconditional(taught: Mapping[str, TaughtModel], model: DiffusionModel) -> str:
    """The run that a model's negative prompt is read with: the first of those that share it."""
    return next(run for run, taught_model in taught.items() if taught_model.model is model)
