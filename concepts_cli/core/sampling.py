"""From noise to images: the model's samplers, our own loop, and scores composed at every step.

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
from concepts_cli.errors import UcdError, memory_error
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel, Sampler
from concepts_cli.recipe import SampleSettings

Predict = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise_pred (B, C, H, W)
Texts = Mapping[tuple[str, str], Conditioning]  # (run, prompt) -> one row


@dataclass(frozen=True)
class Term:
    """A prompt in a composition, and the weight of its score.

    `run` names the taught model of the prompt: "" is the first, any other that of a run whose concepts the prompt
    mentions. A term acts at its `place`, or everywhere without one.
    """

    prompt: str
    weight: float
    run: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class Request:
    """One image to generate: the terms of its score and its seed. A plain prompt is one term at the guidance scale."""

    terms: tuple[Term, ...]
    seed: int


@dataclass(frozen=True)
class TaughtModel:
    """A model, and how to teach it the words of one run before it reads a prompt. Runs may share a model."""

    model: DiffusionModel
    teach: Callable[[DiffusionModel], None] = lambda model: None


def guided(prompt: str, guidance_scale: float, seed: int) -> Request:
    """A plain prompt under classifier-free guidance: a composition of one term."""
    return Request((Term(prompt, guidance_scale),), seed)


def composition(terms: Iterable[Term], seed: int) -> Request:
    """All terms together; a term of weight 0 is left out, and costs nothing."""
    return Request(tuple(anywhere(term) for term in terms if term.weight), seed)


def anywhere(term: Term) -> Term:
    """The term, without a place that covers the whole picture."""
    return replace(term, place=None) if term.place and term.place.covers_everything else term


def composed_scores(
    model: DiffusionModel | Mapping[str, TaughtModel],
    requests: Sequence[Request],
    negative_prompt: str = "",
    texts: Texts | None = None,
) -> Predict:
    """The composed score of every request (eq. 5 and 11): the mean of the models' unconditional scores, plus each
    term's weight times the difference between its score and its own model's unconditional score.

    Each model is called once, with one unconditional row and one row per term for each request in turn. All requests
    have as many terms as the first, of the same runs. `negative_prompt` is the text of the unconditional score. `texts`
    are encoded here unless given.
    """
    taught = _taught(model)
    texts = texts or encode_texts(taught, requests, negative_prompt)
    runs = [term.run for term in requests[0].terms] or [""]
    groups = []  # per model: itself, B * (1 + K') rows of conditioning, weights (B, K') of its K' terms, and the terms
    for network in _different(taught[run].model for run in runs):
        unconditional = _unconditional(taught, network)
        own_terms = [[term for term in request.terms if taught[term.run].model is network] for request in requests]
        rows = [
            texts[key]
            for terms in own_terms
            for key in ((unconditional, negative_prompt), *((term.run, term.prompt) for term in terms))
        ]
        weights = torch.tensor([[term.weight for term in terms] for terms in own_terms], device=network.device)
        groups.append((network, Conditioning.join(rows), weights, own_terms))

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        composed = torch.zeros((), device=latents.device)
        for network, conditioning, weights, terms in groups:
            calls = 1 + weights.shape[1]
            stacked = network.predict(latents.repeat_interleave(calls, dim=0), time, conditioning)
            scores = stacked.unflatten(0, (-1, calls))
            composed = composed + compose(scores[:, 0], scores[:, 1:], in_their_places(weights, terms, latents))
            if len(groups) > 1:
                composed = composed - (1 - 1 / len(groups)) * scores[:, 0]
        return composed

    return predict


def in_their_places(weights: Tensor, terms: Sequence[Sequence[Term]], latents: Tensor) -> Tensor:
    """Weights (B, K) as maps over the latents, (B, K, H, W), if any term has a place; otherwise unchanged."""
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
    """Yield the latents (B, C, H, W) after every denoising step, the last ones clean. `latents` are standard normal.

    `generators`, one per image, are for samplers that add noise on the way; `eta` is DDIM's (Song et al. 2021, eq. 16).
    The `corrector` runs before each step. `check_settings` refuses an eta or a corrector that the sampler doesn't
    support.
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
    model: DiffusionModel | Mapping[str, TaughtModel],
    requests: Sequence[Request],
    settings: SampleSettings,
    *,
    halve: bool = True,
) -> Iterator[Image.Image]:
    """Yield a picture for every request, in order, in batches of requests with terms of the same runs.

    Guidance, seed and number of images come from the requests, and precision from the model; all other settings apply
    here. Each text is encoded once. Batches that don't fit into memory are halved, unless `halve` is false. With
    several taught models, the first starts from noise and decodes. Raises what `check_settings` raises, and UcdError
    for models that can't be composed.
    """
    taught = checked_models(model, settings)
    texts = encode_texts(taught, requests, settings.negative_prompt or "")
    start, size = 0, settings.batch_size
    while start < len(requests):
        batch = [requests[start]]
        for request in requests[start + 1 : start + size]:
            if [term.run for term in request.terms] != [term.run for term in batch[0].terms]:
                break
            batch.append(request)
        pictures = _pictures(taught, batch, settings, texts, may_fail=halve and len(batch) > 1)
        if pictures is None:
            size = len(batch) // 2
            continue
        yield from map(to_image, pictures)
        start += len(batch)


def _pictures(
    taught: Mapping[str, TaughtModel],
    batch: Sequence[Request],
    settings: SampleSettings,
    texts: Texts,
    *,
    may_fail: bool,
) -> Tensor | None:
    """The pictures of one batch, (B, 3, H, W) in [0, 1]; None if they don't fit into memory and `may_fail`."""
    main = taught[""].model
    try:
        predict = composed_scores(taught, batch, settings.negative_prompt or "", texts)
        *_, clean = denoise_seeds(main, [request.seed for request in batch], predict, settings)
        return main.decode(clean)
    except (MemoryError, RuntimeError) as error:
        if not may_fail or not memory_error(error):
            raise
    if main.device.type == "cuda":
        torch.cuda.empty_cache()  # of what the failed batch has left
    return None


def denoise_seeds(
    model: DiffusionModel, seeds: Sequence[int], predict: Predict, settings: SampleSettings
) -> Iterator[Tensor]:
    """Denoise the noise of these seeds as the settings say; yields what `denoise` yields."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    corrector = None
    if settings.corrector_steps:
        fresh = corrector_generators(seeds)
        corrector = Langevin(settings.corrector_steps, settings.corrector_step_size, fresh, model.noise)
    latents = seeded_noise(model, generators, height=settings.height, width=settings.width)
    height, width = latents.shape[-2:]
    sampler = model.sampler(settings.scheduler, size=(height, width))
    return denoise(sampler, latents, predict, settings.steps, generators, settings.eta, corrector)


def checked_models(
    model: DiffusionModel | Mapping[str, TaughtModel], settings: SampleSettings
) -> Mapping[str, TaughtModel]:
    """The models by run. Raises what `check_settings` raises, and UcdError for models that can't be composed."""
    taught = _taught(model)
    main = taught[""].model
    for other in _different(taught_model.model for taught_model in taught.values())[1:]:
        if reason := main.differs_from(other):
            raise UcdError(f"{main.name} and {other.name} can't be composed: {reason}")
    check_settings(main, settings)
    return taught


def check_settings(model: DiffusionModel, settings: SampleSettings) -> None:
    """Raise UcdError for a sampler, a number of steps or a size that the model doesn't support, and for an eta or
    corrector steps that the sampler doesn't.
    """
    name, most = model.sampler_name(settings.scheduler), model.noise.max_steps
    sampler = model.sampler(name)
    if most is not None and settings.steps > most:
        raise UcdError(f"got {settings.steps} denoising steps", f"this model has at most {most}")
    model.check_size(settings.height, settings.width)
    if settings.eta and not sampler.takes_eta:
        raise UcdError(f"{name} takes no eta, got {settings.eta:g}", _others(model, lambda other: other.takes_eta))
    if settings.corrector_steps and not sampler.follows_process:
        hint = _others(model, lambda other: other.follows_process)
        raise UcdError(f"corrector steps don't work with {name}", hint)


def _others(model: DiffusionModel, fits: Callable[[Sampler], bool]) -> str:
    """A hint that names the model's samplers that fit."""
    names = [name for name in model.samplers if fits(model.sampler(name))]
    return f"use {' or '.join(names)}" if names else f"{model.name} has no sampler for that"


def _taught(model: DiffusionModel | Mapping[str, TaughtModel]) -> Mapping[str, TaughtModel]:
    return model if isinstance(model, Mapping) else {"": TaughtModel(model)}


def _different(models: Iterable[DiffusionModel]) -> list[DiffusionModel]:
    return list({id(model): model for model in models}.values())


def _unconditional(taught: Mapping[str, TaughtModel], model: DiffusionModel) -> str:
    """The run whose words a model's negative prompt may use: the first of those that share the model."""
    return next(run for run, taught_model in taught.items() if taught_model.model is model)
