"""Everything up to the first step of a training: device, images, model, latents, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, patch_environment
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import ENCODED, CachedLatents
from concepts_cli.core.objective import ComposedLoss, InversionLoss, Objective
from concepts_cli.core.pursuit import PursuitStart
from concepts_cli.core.sampling import check_settings
from concepts_cli.core.starting import ImageStart
from concepts_cli.core.teaching import ROWS, Start, Teacher, count_of
from concepts_cli.data.finding import find
from concepts_cli.data.images import ImageRecord
from concepts_cli.data.looks import are_photographs
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model, mirror_of, source_of
from concepts_cli.models.device import chosen_device, dtype_of
from concepts_cli.models.interface import SENTENCE, DiffusionModel
from concepts_cli.output import Output
from concepts_cli.processes.environment import is_launched, world_size
from concepts_cli.recipe import BUILT_IN, FOR_PHOTOGRAPHS, Recipe
from concepts_cli.runs.find import find_run
from concepts_cli.runs.run import Run
from concepts_cli.training.clustering import cluster
from concepts_cli.training.memory import MemoryPlan, in_gb, memory_limit, plan_memory
from concepts_cli.training.sentences import check_captions, training_sentences
from concepts_cli.training.telling import counted


def check_count(recipe: Recipe, images: int) -> None:
    """Raise UcdError if so many images can't start the recipe's concepts."""
    if recipe.starts_from_images and images < (least := recipe.concepts.count or 2):
        hint = f"add images, or --set concepts.count={images}" if images > 1 else "add images"
        raise UcdError(f"{counted(images, 'image')} can't start {counted(least, 'concept')}", hint)


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
        accelerator = Accelerator(
            mixed_precision=recipe.train.mixed_precision,
            cpu=device == "cpu",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],  # while the main process starts
        )
    check_precision(recipe, str(accelerator.device))  # its launcher may have chosen another device
    return accelerator


def read_training_images(recipe: Recipe, out: Output | None = None) -> list[ImageRecord]:
    """The records of the recipe's images. Raises UcdError for places without images, and for broken ones."""
    data = recipe.data
    fields = Fields(images=data.image_column, captions=data.captions, masks=data.masks)
    found = find(data.images, fields, skip=data.skip_images, most=data.images_per_folder, out=out)
    try:
        return read_images(found, skip_broken=data.skip_broken, out=out)
    except UcdError as error:
        hint = error.hint if data.skip_broken else f"{error.hint}; or skip it: --set data.skip_broken=true"
        raise UcdError(error.message, hint) from error


def warn_of_photographs(recipe: Recipe, images: Sequence[Path], out: Output) -> None:
    """Warn if the built-in model is to find concepts in photographs, of which it knows nothing."""
    if recipe.model != BUILT_IN or not are_photographs(images):
        return
    from concepts_cli.mini.captions import CLASSES

    out.warn(
        f"these look like photographs, and the built-in model only knows drawings of its {len(CLASSES)} things "
        f"({', '.join(CLASSES)}): what it finds will not be what they show. Use a model of photographs: "
        f"--set model={FOR_PHOTOGRAPHS}"
    )


def earlier_run(recipe: Recipe) -> Run | None:
    """The run that training starts from, if the recipe names one. Raises UcdError if its concepts can't be used."""
    if not recipe.train.start_from:
        return None
    run = find_run(recipe.train.start_from)
    if recipe.concepts.count not in (None, len(run.tokens)):
        raise UcdError(
            f"train.start_from: {run.path} has {len(run.tokens)} concepts, concepts.count is {recipe.concepts.count}",
            f"--set concepts.count={len(run.tokens)}",
        )
    for name in ("vectors", "where"):
        before, now = getattr(run.recipe.concepts, name), getattr(recipe.concepts, name)
        if before != now:
            problem = f"train.start_from: {run.path} has concepts.{name}: {before}, not {now}"
            raise UcdError(problem, f"--set concepts.{name}={before}")
    if recipe.train.start_from_weights:
        _ = run.weights
    return run


def at_mirror(recipe: Recipe, out: Output) -> Recipe:
    """The recipe, with its model's mirror if the model was withdrawn from the hub, which is then said."""
    source = source_of(recipe.model)
    if source != mirror_of(recipe.model):
        return recipe
    out.note(f"{recipe.model} was withdrawn from the hub; using its mirror {source}")
    return replace(recipe, model=source)


def memory_plan(recipe: Recipe, device: torch.device, out: Output) -> MemoryPlan | None:
    """How the training fits into memory, which is said if it takes a slower way; None if nothing limits it, or it
    can't be told.
    """
    limit = memory_limit(recipe, device)
    if limit is None:
        return None
    try:
        plan = plan_memory(recipe, limit)
    except UcdError as error:
        out.note(f"{error.message}: what does not fit into memory is found out on the way")
        return None
    if not plan.fits:
        hint = "a lower data.resolution, mixed_precision, or concepts.where=output takes less"
        out.warn(f"this takes {in_gb(plan.peak)} of memory at least, and there are {in_gb(limit)}: {hint}")
    elif savings := plan.savings(recipe):
        out.note(f"to fit into {in_gb(limit)} of memory: {savings}")
    return plan


def load_training_model(recipe: Recipe, accelerator: Accelerator, out: Output) -> DiffusionModel:
    settings = recipe.train
    if settings.tf32:
        torch.set_float32_matmul_precision("high")
    if recipe.model != BUILT_IN and not Path(recipe.model).exists():
        out.note(f"loading {recipe.model}, which is downloaded on first use")
    model = load_model(
        recipe.model,
        revision=recipe.model_revision,
        device=accelerator.device,
        dtype=dtype_of(settings.mixed_precision),
    )
    if dtype_of(settings.mixed_precision) != model.dtype:
        has = str(model.dtype).removeprefix("torch.")
        problem = f"train.mixed_precision: {model.name} runs in {has} instead of {settings.mixed_precision}"
        raise UcdError(problem, "--set train.mixed_precision=bf16")
    # Refuse what the model can't do before the images are encoded, not at the first preview or after the training.
    model.check_size(recipe.data.resolution, recipe.data.resolution)
    check_settings(model, recipe.sample)
    check_length(model, recipe)
    if settings.gradient_checkpointing:
        model.checkpoint_gradients()
    if settings.compile:
        model.compile()
    return model


def check_length(model: DiffusionModel, recipe: Recipe) -> None:
    """Raise UcdError if the vectors of a concept don't fit into the sentences that the model reads."""
    vectors = recipe.concepts.vectors
    for template in recipe.concepts.templates() if vectors > 1 else ():
        if model.is_truncated(template.format("a " * vectors)):
            problem = f"concepts.vectors: {model.name} reads {model.max_tokens} tokens, and {template!r} with {vectors}"
            raise UcdError(f"{problem} vectors is longer", "set fewer, or concepts.property: null for the bare token")


def with_count(recipe: Recipe, count: int) -> Recipe:
    """The recipe with this number of concepts."""
    return replace(recipe, concepts=replace(recipe.concepts, count=count))


def prepare_training(
    recipe: Recipe,
    records: list[ImageRecord],
    model: DiffusionModel,
    accelerator: Accelerator,
    out: Output,
    *,
    earlier: Run | None = None,
    resumed: bool = False,
    memory: MemoryPlan | None = None,
) -> Training:
    """Set up everything for the first step: latents, initial parameters, those of an `earlier` run if there is one, and
    their loss. A `resumed` training needs no good start: it is given its state.
    """
    if earlier:
        earlier.check_fits(model)
        if source_of(earlier.recipe.model) != source_of(recipe.model):
            out.note(f"starting from concepts of another model, {earlier.recipe.model}")
    check_captions(records, model, recipe.concepts.vectors, out)
    latents = _latents(recipe, records, model, accelerator, out, memory.encoded_at_once if memory else ENCODED)
    concepts = recipe.concepts
    tokens = concept_tokens(concepts.most(), concepts.tokens)
    sentences, own = training_sentences(concepts, records)
    if concepts.where == "output":
        _keep_texts(recipe, model, tokens, sentences)
    if not recipe.train.preview_every:
        model.forget_images()
    start = None
    if recipe.starts_from_images and not resumed:
        rows = memory.start_rows if memory else ROWS
        start = _image_start(recipe, latents, sentences, own, model, accelerator, out, rows)
    if start:
        recipe, tokens = with_count(recipe, count_of(start.words)), tokens[: count_of(start.words)]
    return Training(
        _objective(recipe, records, model, tokens, sentences, earlier, start),
        latents,
        recipe.train,
        sentences=own,
        flip_probability=recipe.data.flip_probability,
        repeats=recipe.data.repeats,
        shared_sentence=concepts.shared_sentence,
        update=recipe.weights.update,
        images_at_once=memory.images_at_once if memory else None,
        accelerator=accelerator,
    )


def _keep_texts(recipe: Recipe, model: DiffusionModel, tokens: Sequence[str], sentences: Sequence[str]) -> None:
    """Encode all that a training will read, and unload the text encoders: the concepts come after them."""
    concepts, negative = recipe.concepts, recipe.sample.negative_prompt or ""
    typical = model.typical_vectors(concepts.where)  # before it is too late to read words
    blank = {name: torch.zeros(1, concepts.vectors, table.shape[1]) for name, table in typical.items()}
    model.set_concepts(tokens[:1], blank, concepts.where)
    words = [SENTENCE.format(word) for word in concepts.initial or ()]
    read = dict.fromkeys([*sentences, *concepts.templates(), concepts.prompt or "{}"])
    model.keep_only(["", negative, *words, *(sentence.format(tokens[0]) for sentence in read)])


def _image_start(
    recipe: Recipe,
    latents: CachedLatents,
    sentences: Sequence[str],
    own: Sequence[range],
    model: DiffusionModel,
    accelerator: Accelerator,
    out: Output,
    rows: int,
) -> Start:
    """Words and weights learned from the images by the main process, for all processes.

    With as many rows in a call of the model as fit into memory.
    """
    start = None
    while accelerator.is_main_process and start is None:
        concepts = recipe.concepts
        options: dict[str, Any] = {
            "sentences": sentences,
            "sentences_of": own,
            "vectors": concepts.vectors,
            "where": concepts.where,
            "rows": rows,
            "seed": recipe.train.seed,
        }
        finder: Teacher
        if concepts.count and recipe.weights.constraint == "none":
            finder = PursuitStart(model, latents, concepts.count, **options)
        else:
            kinds = {"at_most": concepts.count_at_most, "restarts": concepts.start_restarts}
            finder = ImageStart(model, latents, concepts.count, **kinds, **options)
        try:
            for _ in out.track(finder.steps(), total=finder.total, label="starting from the images"):
                pass
            start = finder.result
        except RuntimeError as error:
            if rows == 1 or not should_reduce_batch_size(error):
                raise
        if start is None:  # out of the block above, which keeps tensors
            clear_device_cache(garbage_collection=True)
            rows //= 2
    (start,) = broadcast_object_list([start])
    return start


def _objective(
    recipe: Recipe,
    records: Sequence[ImageRecord],
    model: DiffusionModel,
    tokens: tuple[str, ...],
    sentences: Sequence[str],
    earlier: Run | None,
    start: Start | None,
) -> Objective:
    """The loss of the recipe's method, with K initial concepts."""
    settings, count, method = recipe.weights, recipe.concepts.most(), recipe.train.method
    if earlier:
        words = earlier.embeddings
    elif start:
        words = start.words
    else:
        words = initial_embeddings(
            model,
            count,
            vectors=recipe.concepts.vectors,
            where=recipe.concepts.where,
            words=recipe.concepts.initial,
            start="normal" if recipe.concepts.start == "normal" else "table",
            spread=recipe.concepts.initial_spread,
            unit_norm=recipe.concepts.unit_norm,
            generator=seeded(recipe.train.seed, "embeddings"),
        )
    if method == "composed":
        weights = torch.full((len(records) if settings.per_image else 1, count), float(settings.initial))
        if start and settings.per_image:
            weights = start.raw_weights(settings.constraint)
        if earlier and recipe.train.start_from_weights:
            before = earlier.weights.clamp_min(1e-6).log() if settings.constraint == "softmax" else earlier.weights
            known = {image.sha256: row for image, row in zip(earlier.images, before, strict=True)}
            if known.keys().isdisjoint(record.sha256 for record in records):
                raise UcdError(f"train.start_from_weights: {earlier.path} was trained on none of these images")
            weights = torch.stack([known.get(record.sha256, weights[0]) for record in records])
        concepts = Concepts(
            words,
            weights,
            where=recipe.concepts.where,
            constraint=settings.constraint,
            train_weights=settings.trained,
        )
        return ComposedLoss(
            model,
            concepts,
            tokens,
            sentences,
            composition=settings.composition,
            regularizers=recipe.regularizers,
            checkpointed=recipe.train.concept_checkpointing,
            per_image=recipe.train.concepts_per_image,
        )
    owners = None if method == "textual-inversion" else cluster(recipe, records, model.device)
    weights = torch.full((len(records), count), 1 / count) if owners is None else F.one_hot(owners, count)
    concepts = Concepts(words, weights, where=recipe.concepts.where, train_weights=False)
    return InversionLoss(model, concepts, tokens, sentences, owners=owners)


def _latents(
    recipe: Recipe,
    records: list[ImageRecord],
    model: DiffusionModel,
    accelerator: Accelerator,
    out: Output,
    batch_size: int,
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
            for _ in out.track(
                latents.encode_missing(missing, batch_size=batch_size), total=len(missing), label="encoding images"
            ):
                pass
        accelerator.wait_for_everyone()
    # Read once, so that a mask that is black all over is an error now, and not in the middle of the training.
    masked = [row for row in everything if records[row].mask] if accelerator.is_local_main_process else []
    for _ in out.track(map(latents.mask, masked), total=len(masked), label="reading masks") if masked else ():
        pass
    return latents
