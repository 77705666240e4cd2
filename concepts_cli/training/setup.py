"""Everything up to the first step of a training: device, images, model, latents, loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import CachedLatents
from concepts_cli.core.objective import ComposedLoss, InversionLoss, Objective
from concepts_cli.core.sampling import check_settings
from concepts_cli.data.images import ImageRecord, find_images, read_images
from concepts_cli.data.prompts import templates
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.models.device import chosen_device, dtype_of
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output
from concepts_cli.processes.environment import is_launched, world_size
from concepts_cli.recipe import BUILT_IN, Recipe
from concepts_cli.training.clustering import cluster


def check_precision(recipe: Recipe, device: str | None) -> None:
    """Raise UcdError for a missing device, and for fp16 on a CPU."""
    if chosen_device(device).type == "cpu" and recipe.train.mixed_precision == "fp16":
        raise UcdError("train.mixed_precision: fp16 needs a GPU", "--set train.mixed_precision=no")


def choose_accelerator(recipe: Recipe, device: str | None) -> Accelerator:
    """An accelerator on `device`, or where accelerate or its launcher puts it."""
    if device and device not in ("cpu", "cuda") and world_size() > 1:
        raise UcdError(f"--device {device} is one device, but each process needs its own", "omit it, or use cpu")
    if world_size() == 1:
        # accelerate keeps one device and precision per process; a notebook's next training may need others.
        AcceleratorState._reset_state(reset_partial_state=True)
    environment = {"ACCELERATE_TORCH_DEVICE": str(chosen_device(device))} if device and not is_launched() else {}
    with patch_environment(**environment):
        accelerator = Accelerator(mixed_precision=recipe.train.mixed_precision, cpu=device == "cpu")
    check_precision(recipe, str(accelerator.device))  # its launcher may have chosen another device
    return accelerator


def read_training_images(recipe: Recipe) -> list[ImageRecord]:
    return read_images(find_images(recipe.data.images, recipe.data.images_per_folder))


def load_training_model(recipe: Recipe, accelerator: Accelerator, out: Output) -> DiffusionModel:
    settings = recipe.train
    if settings.tf32:
        torch.set_float32_matmul_precision("high")
    if recipe.model != BUILT_IN and not Path(recipe.model).is_dir():
        out.note(f"loading {recipe.model}, which is downloaded on first use")
    model = load_model(recipe.model, device=accelerator.device, dtype=dtype_of(settings.mixed_precision))
    # Refuse what the model can't do before the images are encoded, not at the first preview or after the training.
    model.check_size(recipe.data.resolution, recipe.data.resolution)
    check_settings(model, recipe.sample)
    if settings.gradient_checkpointing:
        model.checkpoint_gradients()
    if settings.compile:
        model.compile()
    return model


def prepare_training(
    recipe: Recipe, records: list[ImageRecord], model: DiffusionModel, accelerator: Accelerator, out: Output
) -> Training:
    """Set up everything for the first step: latents, initial parameters, and their loss."""
    latents = _latents(recipe, records, model, accelerator, out)
    tokens = concept_tokens(recipe.concepts.count)
    return Training(
        _objective(recipe, records, model, tokens),
        latents,
        recipe.train,
        flip_probability=recipe.data.flip_probability,
        repeats=recipe.data.repeats,
        shared_sentence=recipe.concepts.shared_sentence,
        update=recipe.weights.update,
        accelerator=accelerator,
    )


def _objective(
    recipe: Recipe, records: Sequence[ImageRecord], model: DiffusionModel, tokens: tuple[str, ...]
) -> Objective:
    """The loss of the recipe's method, with K initial concepts."""
    settings, count, method = recipe.weights, recipe.concepts.count, recipe.train.method
    start = initial_embeddings(
        model,
        count,
        words=recipe.concepts.initial,
        spread=recipe.concepts.initial_spread,
        unit_norm=recipe.concepts.unit_norm,
        generator=seeded(recipe.train.seed, "embeddings"),
    )
    sentences = templates(recipe.concepts.property)
    if method == "composed":
        weights = torch.full((len(records) if settings.per_image else 1, count), float(settings.initial))
        concepts = Concepts(start, weights, constraint=settings.constraint, train_weights=settings.trained)
        return ComposedLoss(
            model,
            concepts,
            tokens,
            sentences,
            composition=settings.composition,
            regularizers=recipe.regularizers,
            checkpointed=recipe.train.concept_checkpointing,
        )
    owners = None if method == "textual-inversion" else cluster(recipe, records, model.device)
    weights = torch.full((len(records), count), 1 / count) if owners is None else F.one_hot(owners, count)
    return InversionLoss(model, Concepts(start, weights, train_weights=False), tokens, sentences, owners=owners)


def _latents(
    recipe: Recipe, records: list[ImageRecord], model: DiffusionModel, accelerator: Accelerator, out: Output
) -> CachedLatents:
    """Encode all images: each process its share, then each machine what its own cache still lacks."""
    data = recipe.data
    latents = CachedLatents(
        model,
        records,
        resolution=data.resolution or model.resolution,
        resize=data.resize,
        mirrored=data.flip_probability > 0,
    )
    everything = range(len(records))
    mine = everything[accelerator.process_index :: accelerator.num_processes]
    for rows in (mine, everything if accelerator.is_local_main_process else ()):
        if missing := latents.missing(rows):
            for _ in out.track(latents.encode_missing(missing), total=len(missing), label="encoding images"):
                pass
        accelerator.wait_for_everyone()
    return latents
