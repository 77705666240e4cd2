"""`ucd train`: from a recipe to a run folder."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.contact_sheet import contact_sheet
from concepts_cli.core.discovery import ComposedLoss, Step, Training, seeded
from concepts_cli.core.sampling import generate, guided
from concepts_cli.data import latents as cache
from concepts_cli.data.images import ImageRecord, find_images, read_images
from concepts_cli.data.prompts import default_prompt, templates
from concepts_cli.errors import UcdError
from concepts_cli.models import BUILT_IN, load_model
from concepts_cli.models.stable_diffusion import StableDiffusion, chosen_device
from concepts_cli.output import Output
from concepts_cli.recipe import Recipe
from concepts_cli.run_dir import RUNS, Run, bare_name, check_place, replacing, unwritable, write_png

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """What a training would do: N images, K concepts, optimizer steps, and where it would go."""

    run: str
    model: str
    images: int
    concepts: int
    steps: int
    images_per_step: int


def train(
    recipe: Recipe,
    *,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> Run:
    """Discover the recipe's concepts and write the run folder; the folder grows from the first step on.

    Raises UcdError for images that can't be read, a folder that is taken, a model that can't be loaded or a loss that
    diverges; KeyboardInterrupt after a signal, once a checkpoint is written.
    """
    records = _records(recipe)
    accelerator = _accelerator(recipe, device)
    main = accelerator.is_main_process
    if main:
        _run_folder(recipe, output, resume=resume, force=force)  # what is wrong is said before the long work
    if recipe.model != BUILT_IN and not Path(recipe.model).is_dir():
        out.note(f"loading {recipe.model}, which is downloaded when it is used for the first time")
    model = load_model(recipe.model, device=accelerator.device, dtype=DTYPES[recipe.train.mixed_precision])
    training, tokens = _prepare(recipe, records, model, accelerator, out)
    folder = _make_run_folder(recipe, output, resume=resume, force=force).path if main else None
    run = Run(broadcast_object_list([folder])[0])  # every process writes to, and resumes from, the main one's

    if state := run.load_checkpoint() if resume else None:
        _check_same_images(run, records)
        training.restore(state)
        if main:
            _forget_later_metrics(run, training.step)
        out.note(f"resuming at step {training.step} of {training.total_steps}")
    elif main:
        run.clear()
    if main:
        run.begin(recipe, records)

    def checkpoint() -> None:
        if main:
            run.save_checkpoint(training.step, training.state(), recipe.train.keep_checkpoints)

    settings = recipe.train
    with _signals_noted() as noted:
        steps = out.track(
            training.steps(), total=training.total_steps, start=training.step, label="discovering", describe=_describe
        )
        for step in steps:
            if main and (step.number % settings.log_every == 0 or step.number == 1):
                run.log(asdict(step))
            if settings.preview_every and step.number % settings.preview_every == 0 and main:
                _preview(run, recipe, model, tokens, step.number)
            if noted or step.number % settings.checkpoint_every == 0 or step.number == training.total_steps:
                checkpoint()
            if noted:
                out.note(f"stopped at step {step.number}; go on with --output {run.path} --resume")
                raise KeyboardInterrupt
    if main:
        run.save_concepts(tokens, training.concepts.embeddings, training.concepts.weights())
    accelerator.wait_for_everyone()
    return run


def plan(recipe: Recipe, *, output: Path | None = None, resume: bool = False, force: bool = False) -> Plan:
    """What `train` would do with this recipe, found out without loading the model. Raises what it would raise of it."""
    settings, count = recipe.train, len(_records(recipe))
    return Plan(
        run=str(_run_folder(recipe, output, resume=resume, force=force).path),
        model=recipe.model,
        images=count,
        concepts=recipe.concepts.count,
        steps=settings.max_steps or count * settings.iterations_per_image,
        images_per_step=settings.batch_size * settings.gradient_accumulation,
    )


def _accelerator(recipe: Recipe, device: str | None) -> Accelerator:
    """On the device asked for; else accelerate, and its launcher, choose. Raises UcdError for fp16 on a CPU."""
    if device:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(chosen_device(device))
    accelerator = Accelerator(mixed_precision=recipe.train.mixed_precision, cpu=device == "cpu")
    if accelerator.device.type == "cpu" and recipe.train.mixed_precision == "fp16":
        raise UcdError("train.mixed_precision: fp16 needs a GPU", "--set train.mixed_precision=no")
    return accelerator


def _records(recipe: Recipe) -> list[ImageRecord]:
    return read_images(find_images(recipe.data.images, recipe.data.images_per_folder))


def _make_run_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """The run folder, made now. Trainings that start at once and were not told where get a folder each."""
    may_exist = bool(output or resume or force)
    while True:
        run = _run_folder(recipe, output, resume=resume, force=force)
        try:
            run.path.mkdir(parents=True, exist_ok=may_exist)
            return run
        except OSError as error:
            if may_exist or not isinstance(error, FileExistsError):
                raise unwritable(run.path, error) from error


def _run_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """Where the run goes. Raises UcdError when it can't go there, or there is something to be lost."""
    if resume and force:
        raise UcdError("--resume goes on, --force starts over", "give one of them")
    run = _find_run_folder(recipe, output, resume=resume, force=force)
    check_place(run.path)
    if resume and run.path.is_dir() and any(run.path.iterdir()):
        if not run.exists():
            raise UcdError(f"{run.path} is not empty and no run", "choose another --output")
        if run.is_finished() and not run.checkpoints():
            raise UcdError(f"{run.path} is finished and has no checkpoint to go on from", "start over with --force")
    return run


def _find_run_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """`output`, or runs/NAME, or with that taken runs/NAME-2 and so on; to resume, the newest of them."""
    numbered = [RUNS / recipe.name] + [RUNS / f"{recipe.name}-{n}" for n in range(2, 10_000)]
    if output is None:
        free = next(path for path in numbered if not path.exists())
        taken = numbered[: numbered.index(free)]
        if force:
            return Run(numbered[0])
        return Run(taken[-1] if resume and taken else free)
    if output.is_dir() and any(output.iterdir()) and not (resume or force):
        raise UcdError(f"--output {output} is not empty", "--resume goes on with it, --force writes over it")
    return Run(output)


def _prepare(
    recipe: Recipe, records: list[ImageRecord], model: StableDiffusion, accelerator: Accelerator, out: Output
) -> tuple[Training, tuple[str, ...]]:
    """Everything up to the first step: latents, parameters at their start, the loss around them."""
    with accelerator.main_process_first():
        latents = _latents(recipe, records, model, out)
    count, seed = recipe.concepts.count, recipe.train.seed
    start = initial_embeddings(
        model,
        count,
        words=recipe.concepts.initial,
        spread=recipe.concepts.initial_spread,
        generator=seeded(seed, "embeddings"),
    )
    weights = torch.full((len(records), count), float(recipe.weights.initial))
    concepts = Concepts(start, weights, constraint=recipe.weights.constraint, train_weights=recipe.weights.trained)
    tokens = concept_tokens(count)
    loss = ComposedLoss(
        model, concepts, tokens, templates(recipe.concepts.property), checkpointed=recipe.train.concept_checkpointing
    )
    flip = recipe.data.flip_probability
    return Training(loss, latents, recipe.train, flip_probability=flip, accelerator=accelerator), tokens


def _latents(recipe: Recipe, records: list[ImageRecord], model: StableDiffusion, out: Output) -> cache.Latents:
    """From the cache, or encoded now and put there."""
    how = {
        "resolution": recipe.data.resolution or model.resolution,
        "resize": recipe.data.resize,
        "mirrored": recipe.data.flip_probability > 0,
    }
    path = cache.cache_file(model, records, **how)
    if found := cache.load_cached(path):
        return found
    size = 8
    batches = out.track(
        cache.encode(model, records, **how, batch_size=size), total=-(-len(records) // size), label="encoding images"
    )
    means, stds = zip(*batches, strict=True)
    latents = cache.Latents(torch.cat(means, dim=1), torch.cat(stds, dim=1))
    cache.save_cached(path, latents)
    return latents


def _preview(run: Run, recipe: Recipe, model: StableDiffusion, tokens: tuple[str, ...], step: int) -> None:
    """previews/step-000100.png: a row of samples a concept."""
    each, settings = recipe.train.preview_images, recipe.sample
    requests = [
        guided(default_prompt(recipe.concepts.property, token), settings.guidance_scale, settings.seed + n)
        for token in tokens
        for n in range(each)
    ]
    pictures = list(generate(model, requests, num_inference_steps=settings.steps, scheduler=settings.scheduler))
    rows = {bare_name(token): pictures[k * each : (k + 1) * each] for k, token in enumerate(tokens)}
    write_png(run.path / "previews" / f"step-{step:06d}.png", contact_sheet(rows), {"run": run.name, "step": step})


def _check_same_images(run: Run, records: list[ImageRecord]) -> None:
    """A run goes on with the images it began with, wherever they lie now. Raises UcdError naming those that differ."""
    before, now = [r.sha256 for r in run.images], [r.sha256 for r in records]
    if before != now:
        changed = [r.path for r in records if r.sha256 not in before] + [
            r.path for r in run.images if r.sha256 not in now
        ]
        what = ", ".join(changed[:3]) if changed else "their order"
        raise UcdError(
            f"the images are not those that {run.path} began with: {what}", "restore them, or train a new run"
        )


def _forget_later_metrics(run: Run, step: int) -> None:
    """Drop the lines of metrics.jsonl that the resumed steps will write again."""
    path = run.path / "metrics.jsonl"
    if path.is_file():
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        with replacing(path) as beside:
            beside.write_text("".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    """The step that a line of metrics.jsonl is of; after all others when a kill has cut it."""
    try:
        return json.loads(line)["number"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _describe(step: Step) -> dict[str, str]:
    return {"loss": f"{step.loss:.4f}"}


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """SIGINT and SIGTERM only leave a note, so that a step is never cut in two; a second one interrupts at once."""
    noted: list[int] = []

    def note(number: int, frame) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
