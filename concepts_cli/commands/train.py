"""`ucd train`: from a recipe to a run folder."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.core.clustering import cluster
from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.contact_sheet import contact_sheet
from concepts_cli.core.discovery import Step, Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import ComposedLoss, InversionLoss, Objective
from concepts_cli.core.sampling import generate, guided
from concepts_cli.data.images import ImageRecord, find_images, read_images
from concepts_cli.data.latents import CachedLatents
from concepts_cli.data.prompts import default_prompt, templates
from concepts_cli.errors import UcdError
from concepts_cli.models import BUILT_IN, load_model
from concepts_cli.models.stable_diffusion import StableDiffusion, chosen_device
from concepts_cli.output import Output
from concepts_cli.recipe import Recipe
from concepts_cli.run_dir import Run, bare_name, replacing, write_png
from concepts_cli.tracking import check_hub, check_trackers, push_to_hub, start_trackers, track_picture
from concepts_cli.training_folder import make_training_folder, training_folder

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ONE_KEYSTROKE_SECONDS = 1.0  # a launcher and the terminal may both hand on the same Ctrl-C


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
    check_trackers(recipe.train.trackers or ())
    if recipe.train.push_to_hub:
        check_hub(recipe.train.push_to_hub)
    accelerator = _accelerator(recipe, device)
    main = accelerator.is_main_process
    # What is wrong with the folder or the images is said before the long work, and before anything is written.
    begun = training_folder(recipe, output, resume=resume, force=force).path if main else None
    begun, records = broadcast_object_list([begun, _records(recipe) if main else None])
    state = Run(begun).load_checkpoint() if resume else None
    if state:
        records = _in_the_order_they_had(state, records, Run(begun))
    model = _load_model(recipe, accelerator, out)
    training, tokens = _prepare(recipe, records, model, accelerator, out)
    folder = make_training_folder(recipe, output, resume=resume, force=force).path if main else None
    run = Run(broadcast_object_list([folder])[0])  # every process works on the main one's
    if state:
        training.restore(state)
        if main:
            _forget_later_metrics(run, training.step)
        out.note(f"resuming at step {training.step} of {training.total_steps}")
    if main and not state:
        run.clear()
    if main:
        run.begin(recipe, records)
    if recipe.train.trackers:
        start_trackers(accelerator, recipe, run)

    def checkpoint() -> None:
        if main:
            whole = training.state() | {"images": _digests(records)}
            run.save_checkpoint(training.step, whole, recipe.train.keep_checkpoints)

    settings = recipe.train
    with _signals_noted() as noted:
        steps = out.track(
            training.steps(stop=lambda: bool(noted)),
            total=training.total_steps,
            start=training.step,
            label="discovering",
            describe=_describe,
        )
        for step in steps:
            last = step.stopped or step.number == training.total_steps
            if main and (step.number % settings.log_every == 0 or step.number == 1):
                _log(run, accelerator, step)
            if settings.preview_every and step.number % settings.preview_every == 0 and main:
                _preview(run, recipe, model, tokens, accelerator, step.number)
            if last or step.number % settings.checkpoint_every == 0:
                checkpoint()
            if last and step.number < training.total_steps and not training.has_settled:
                out.note(f"stopped at step {step.number}; go on with --output {run.path} --resume")
                raise KeyboardInterrupt
    if training.has_settled:
        out.note(f"no image changed its strongest concept for {settings.patience} steps: done at step {training.step}")
    if main:
        weights = training.concepts.weights().expand(len(records), -1)
        run.save_concepts(tokens, training.concepts.embeddings, weights)
        if settings.push_to_hub:
            out.note(f"published: {push_to_hub(run)}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run


def plan(
    recipe: Recipe, *, output: Path | None = None, resume: bool = False, force: bool = False, processes: int = 1
) -> Plan:
    """What `train` would do with this recipe, found out without loading the model. Raises what it would raise of it."""
    settings = recipe.train
    check_trackers(settings.trackers or ())
    count = len(_records(recipe))
    return Plan(
        run=str(training_folder(recipe, output, resume=resume, force=force).path),
        model=recipe.model,
        images=count,
        concepts=recipe.concepts.count,
        steps=settings.max_steps or count * settings.iterations_per_image,
        images_per_step=settings.batch_size * settings.gradient_accumulation * processes,
    )


def _accelerator(recipe: Recipe, device: str | None) -> Accelerator:
    """On the device asked for; else accelerate, and its launcher, choose. Raises UcdError for fp16 on a CPU."""
    if device and device not in ("cpu", "cuda") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UcdError(f"--device {device} is one device, and each process wants its own", "leave it out, or cpu")
    if device and "WORLD_SIZE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(chosen_device(device))
    accelerator = Accelerator(mixed_precision=recipe.train.mixed_precision, cpu=device == "cpu")
    if accelerator.device.type == "cpu" and recipe.train.mixed_precision == "fp16":
        raise UcdError("train.mixed_precision: fp16 needs a GPU", "--set train.mixed_precision=no")
    return accelerator


def _records(recipe: Recipe) -> list[ImageRecord]:
    return read_images(find_images(recipe.data.images, recipe.data.images_per_folder))


def _load_model(recipe: Recipe, accelerator: Accelerator, out: Output) -> StableDiffusion:
    settings = recipe.train
    if settings.tf32:
        torch.set_float32_matmul_precision("high")
    if recipe.model != BUILT_IN and not Path(recipe.model).is_dir():
        out.note(f"loading {recipe.model}, which is downloaded when it is used for the first time")
    model = load_model(recipe.model, device=accelerator.device, dtype=DTYPES[settings.mixed_precision])
    if settings.gradient_checkpointing:
        model.checkpoint_gradients()
    if settings.compile:
        model.unet.compile()
    return model


def _prepare(
    recipe: Recipe, records: list[ImageRecord], model: StableDiffusion, accelerator: Accelerator, out: Output
) -> tuple[Training, tuple[str, ...]]:
    """Everything up to the first step: latents, parameters at their start, the loss around them."""
    latents = _latents(recipe, records, model, accelerator, out)
    tokens = concept_tokens(recipe.concepts.count)
    training = Training(
        _objective(recipe, records, model, tokens),
        latents,
        recipe.train,
        flip_probability=recipe.data.flip_probability,
        repeats=recipe.data.repeats,
        shared_sentence=recipe.concepts.shared_sentence,
        update=recipe.weights.update,
        accelerator=accelerator,
    )
    return training, tokens


def _objective(
    recipe: Recipe, records: Sequence[ImageRecord], model: StableDiffusion, tokens: tuple[str, ...]
) -> Objective:
    """The loss of the recipe's method around K concepts at their start."""
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
    recipe: Recipe, records: list[ImageRecord], model: StableDiffusion, accelerator: Accelerator, out: Output
) -> CachedLatents:
    """All images encoded: each process its share, and then what a machine with a cache of its own still lacks."""
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
            for _ in out.track(latents.fill(missing), total=len(missing), label="encoding images"):
                pass
        accelerator.wait_for_everyone()
    return latents


def _in_the_order_they_had(state: dict[str, Tensor], records: Sequence[ImageRecord], run: Run) -> list[ImageRecord]:
    """The images as the checkpoint's rows have them, known by their content, wherever they lie now.

    Raises UcdError naming those that are new, changed or gone.
    """
    if "images" not in state:
        raise UcdError("the checkpoint does not say which images it is of", "start over with --force")
    there: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in reversed(records):  # of images alike the first comes first
        there[record.sha256].append(record)
    before = [bytes(digest).hex() for digest in state["images"].tolist()]
    ordered = [there[sha256].pop() if there[sha256] else None for sha256 in before]
    changed = [record.path for left in there.values() for record in left]
    if len(run.images) == len(before):
        changed += [was.path for was, now in zip(run.images, ordered, strict=True) if now is None]
    if changed or None in ordered:
        what = ", ".join(dict.fromkeys(changed[:3])) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise UcdError(
            f"the images are not those that {run.path} began with: {what}", "restore them, or train a new run"
        )
    return ordered


def _digests(records: Sequence[ImageRecord]) -> Tensor:
    """The SHA-256 of each image, (N, 32) bytes: row i of the weights belongs to what hashes to row i."""
    return torch.tensor([list(bytes.fromhex(record.sha256)) for record in records], dtype=torch.uint8)


def _log(run: Run, accelerator: Accelerator, step: Step) -> None:
    """A line of metrics.jsonl, and the same for whoever else follows the run."""
    values = {"loss": step.loss, "learning_rate": step.learning_rate} | step.terms
    run.log({"number": step.number} | values)
    accelerator.log(values, step=step.number)


def _preview(
    run: Run, recipe: Recipe, model: StableDiffusion, tokens: tuple[str, ...], accelerator: Accelerator, step: int
) -> None:
    """previews/step-000100.png: a row of samples a concept."""
    each, settings = recipe.train.preview_images, recipe.sample
    requests = [
        guided(default_prompt(recipe.concepts.property, token), settings.guidance_scale, settings.seed + n)
        for token in tokens
        for n in range(each)
    ]
    pictures = list(generate(model, requests, num_inference_steps=settings.steps, scheduler=settings.scheduler))
    sheet = contact_sheet({bare_name(token): pictures[k * each : (k + 1) * each] for k, token in enumerate(tokens)})
    write_png(run.path / "previews" / f"step-{step:06d}.png", sheet, {"run": run.name, "step": step})
    track_picture(accelerator, "preview", sheet, step)


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
def _signals_noted() -> Iterator[list[float]]:
    """SIGINT and SIGTERM only leave a note, so that a step is never cut in two; a second one interrupts at once."""
    noted: list[float] = []

    def note(number: int, frame) -> None:
        if noted and time.monotonic() - noted[0] > ONE_KEYSTROKE_SECONDS:
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
