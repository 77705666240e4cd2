"""How much memory a training takes, by the model's configuration alone; and a plan that fits into what there is.

A step, a call of the start and a batch of images run on the meta device, and what they would allocate is counted: see
`accounting`. Shapes: B images, K concepts scored per image, C h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional as F

from concepts_cli.core.concepts import several
from concepts_cli.core.latents import ENCODED
from concepts_cli.core.scores import checkpointed_scores, compose, stacked_scores, weighted_sum
from concepts_cli.core.teaching import ROWS
from concepts_cli.errors import UcdError, first_line
from concepts_cli.models import configuration_of, family_of
from concepts_cli.models.device import dtype_of
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.recipe import Recipe
from concepts_cli.training.accounting import accounting, bytes_of

UNITS = {"K": 1, "M": 2, "G": 3}
SPARE = 0.1  # of the memory, for what is not counted: kernels' workspaces and the allocator's gaps


@dataclass(frozen=True)
class MemoryPlan:
    """How a training is cut into parts that fit, and what it takes; sizes are in bytes."""

    parameters: int  # of all of the model's parts, a number of them
    weights: int  # that stay loaded during the steps
    peak: int  # at most, weights included
    fits: bool
    images_at_once: int  # of a step's forward pass
    start_rows: int  # of a call of the start from the images
    encoded_at_once: int  # images
    concept_checkpointing: bool
    gradient_checkpointing: bool

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe, with what the plan saves memory by."""
        saved = {name: getattr(self, name) for name in ("concept_checkpointing", "gradient_checkpointing")}
        return replace(recipe, train=replace(recipe.train, **saved))

    def rows(self) -> list[tuple[str, object]]:
        """Its table: a name and a value each."""
        sizes = {name: in_gb(getattr(self, name)) for name in ("weights", "peak")}
        return [(name.replace("peak", "peak_memory"), value) for name, value in (vars(self) | sizes).items()]

    def savings(self, recipe: Recipe) -> str:
        """What is slower for it than the recipe asks for, in words; empty if nothing is."""
        few = self.images_at_once < recipe.train.batch_size
        before = recipe.train
        means = {
            f"{self.images_at_once} image{'s' * (self.images_at_once > 1)} at a time": few,
            "concept checkpointing": self.concept_checkpointing and not before.concept_checkpointing,
            "gradient checkpointing": self.gradient_checkpointing and not before.gradient_checkpointing,
        }
        return ", ".join(name for name, is_used in means.items() if is_used)


def memory_limit(recipe: Recipe, device: torch.device) -> int | None:
    """The bytes that a training may take: what the recipe says, or what a GPU has free; None if nothing limits it."""
    if size := recipe.train.memory:
        number, unit = size.removesuffix("B").removesuffix("i")[:-1], size.removesuffix("B").removesuffix("i")[-1]
        return int(float(number) * (1024 if size.endswith("iB") else 1000) ** UNITS[unit])
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def in_gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def plan_memory(recipe: Recipe, limit: int | None) -> MemoryPlan:
    """The fastest plan that takes at most `limit` bytes; without one, the recipe as it is.

    If none fits, it is the one that takes least. Raises UcdError for a model whose configuration can't be read, or
    doesn't tell.
    """
    try:
        return _plan(recipe, limit)
    except (RuntimeError, ImportError, AttributeError) as error:  # a part that is unknown, or does not run without data
        raise UcdError(f"what {recipe.model} takes can't be told: {first_line(error)}") from error


def _plan(recipe: Recipe, limit: int | None) -> MemoryPlan:
    model = _skeleton(recipe)
    parts = model.parts()
    parameters = sum(each.numel() for modules in parts.values() for module in modules for each in module.parameters())
    loaded = parts["network"] + ([] if recipe.concepts.where == "output" else parts["text"])
    weights = bytes_of(loaded + (parts["images"] if recipe.train.preview_every else []))
    whole = bytes_of(module for modules in parts.values() for module in modules)
    room = float("inf") if limit is None else limit * (1 - SPARE)
    encoded, images_peak = _largest(ENCODED, partial(_images_peak, model, recipe), room - whole)
    for saving in _savings(recipe, model):
        step_of = partial(_step_peak, model, recipe, concept_checkpointing=saving[0])
        batch, step = _largest(recipe.train.batch_size, step_of, room - weights)
        if weights + step <= room:
            break
    rows, start = ROWS, 0
    if recipe.starts_from_images:
        rows, start = _largest(ROWS, partial(_start_peak, model, recipe), room - weights)
    peak = max(whole + images_peak, weights + step, weights + start)
    return MemoryPlan(parameters, weights, peak, peak <= room, batch, rows, encoded, *saving)


def _skeleton(recipe: Recipe) -> DiffusionModel:
    """The recipe's model without its weights. Raises UcdError if its configuration can't be read."""
    family = family_of(recipe.model, revision=recipe.model_revision)
    dtype = dtype_of(recipe.train.mixed_precision) or torch.float32
    source = configuration_of(recipe.model)
    try:
        return family.skeleton(source, name=recipe.model, revision=recipe.model_revision, dtype=dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"what {recipe.model} takes can't be told from its configuration: {first_line(error)}"
        raise UcdError(problem, "restore or download the model again") from error


def _savings(recipe: Recipe, model: DiffusionModel) -> Iterator[tuple[bool, bool]]:
    """Concept checkpointing and gradient checkpointing, what is fast first; all that the recipe asks for is in each."""
    asked = recipe.train.concept_checkpointing, recipe.train.gradient_checkpointing
    can = recipe.train.method == "composed"
    ways = [(False, False), (can, False), (can, True)]
    for way in dict.fromkeys((asked[0] or concepts, asked[1] or gradients) for concepts, gradients in ways):
        if way[1]:
            model.checkpoint_gradients()
        yield way


def _largest(most: int, cost: Callable[[int], int], room: float) -> tuple[int, int]:
    """The largest of `most`, its half, its quarter, ... whose cost has room, and that cost; or 1."""
    count = most
    while (taken := cost(count)) > room and count > 1:
        count //= 2
    return count, taken


def _step_peak(model: DiffusionModel, recipe: Recipe, images: int, *, concept_checkpointing: bool) -> int:
    """What a forward and backward pass of a step allocates."""
    settings, concepts = recipe.train, recipe.concepts
    composed = settings.method == "composed"
    scored = min(concepts.most(), settings.concepts_per_image or concepts.most()) if composed else 1
    with_uncond = composed and recipe.weights.composition == "eq11" and recipe.weights.constraint != "softmax"
    tokens = _teach(model, recipe, concepts.most())
    sentences = concepts.templates()
    used = sentences[: min(images, len(sentences))]
    prompts = model.tokenize([sentence.format(token) for sentence in used for token in tokens[:scored]])
    index = torch.arange(images * scored).reshape(images, scored) % len(prompts)
    latents = _latents(model, recipe, images)
    weights = torch.ones(images, scored, device="meta", requires_grad=True)
    with torch.no_grad():
        uncond = model.encode_prompts([""])
    with accounting() as counted:
        times = model.noise.time(torch.rand(images)).to("meta")
        noisy, target = model.noise.example(latents, torch.empty_like(latents), times)
        if concept_checkpointing:
            conditional = checkpointed_scores(model, noisy, times, prompts, index)
        else:
            conditional = stacked_scores(model, noisy, times, model.encode(prompts)[index.flatten()])
        if with_uncond:
            with torch.no_grad():
                alone = model.predict(noisy, times, uncond.repeat(images))
            predicted = compose(alone, conditional, weights)
        else:
            predicted = weighted_sum(conditional, weights)
        F.mse_loss(predicted, target).backward()
    return counted.peak


def _start_peak(model: DiffusionModel, recipe: Recipe, rows: int) -> int:
    """What a call of the start from the images allocates, each row with a word of its own."""
    tokens = _teach(model, recipe, rows)
    latents = _latents(model, recipe, rows)
    prompts = model.tokenize([recipe.concepts.templates()[0].format(token) for token in tokens])
    with accounting() as counted:
        times = model.noise.time(torch.rand(rows)).to("meta")
        noisy, target = model.noise.example(latents, torch.empty_like(latents), times)
        (model.predict(noisy, times, model.encode(prompts)) - target).square().mean().backward()
    return counted.peak


def _images_peak(model: DiffusionModel, recipe: Recipe, images: int) -> int:
    """What encoding a batch of images allocates."""
    side = recipe.data.resolution or model.resolution
    with accounting() as counted:
        model.encode_images(torch.empty(images, 3, side, side, device="meta"))
    return counted.peak


def _latents(model: DiffusionModel, recipe: Recipe, images: int) -> torch.Tensor:
    side = recipe.data.resolution or model.resolution
    return torch.empty(images, *model.latent_shape(side, side), device="meta")


def _teach(model: DiffusionModel, recipe: Recipe, count: int) -> list[str]:
    """The model learns `count` words of the recipe's kind; returns them."""
    tokens = [f"<t{k}>" for k in range(1, count + 1)]
    shape = (count, *several(recipe.concepts.vectors))
    words = {
        encoder: torch.empty(*shape, table.shape[1], device="meta", requires_grad=True)
        for encoder, table in model.tables.items()
    }
    model.set_concepts(tokens, words, recipe.concepts.where)
    return tokens
