"""`ucd train`: from a recipe to a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from concepts_cli.core.discovery import Step, Training
from concepts_cli.core.sampling import generate, guided
from concepts_cli.data.prompts import default_prompt
from concepts_cli.drawing.contact_sheet import contact_sheet
from concepts_cli.models import load_model
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output
from concepts_cli.pictures.plan import dtype_of
from concepts_cli.processes.signals import signals_noted
from concepts_cli.recipe import Recipe
from concepts_cli.runs.files import write_png
from concepts_cli.runs.hub import check_hub, push_to_hub
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.runs.trackers import check_trackers, start_trackers, track_picture
from concepts_cli.runs.training_folder import make_training_folder, training_folder
from concepts_cli.training.resume import drop_later_metrics, image_digests, in_checkpoint_order
from concepts_cli.training.setup import (
    choose_accelerator,
    load_training_model,
    prepare_training,
    read_training_images,
)


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
    accelerator = choose_accelerator(recipe, device)
    main = accelerator.is_main_process
    # What is wrong with the folder or the images is said before the long work, and before anything is written.
    begun = training_folder(recipe, output, resume=resume, force=force).path if main else None
    begun, records = broadcast_object_list([begun, read_training_images(recipe) if main else None])
    state = Run(begun).load_checkpoint() if resume else None
    if state:
        records = in_checkpoint_order(state, records, Run(begun))
    model = load_training_model(recipe, accelerator, out)
    training = prepare_training(recipe, records, model, accelerator, out)
    folder = make_training_folder(recipe, output, resume=resume, force=force).path if main else None
    run = Run(broadcast_object_list([folder])[0])  # every process works on the main one's
    if state:
        training.restore(state)
        if main:
            drop_later_metrics(run, training.step)
        out.note(f"resuming at step {training.step} of {training.total_steps}")
    if main and not state:
        run.clear()
    if main:
        run.begin(recipe, records)
    if recipe.train.trackers:
        start_trackers(accelerator, recipe, run)

    def checkpoint() -> None:
        if main:
            whole = training.state() | {"images": image_digests(records)}
            run.save_checkpoint(training.step, whole, recipe.train.keep_checkpoints)

    settings = recipe.train
    with signals_noted() as noted:
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
                _preview(run, recipe, training, accelerator, step.number)
            if last or step.number % settings.checkpoint_every == 0:
                checkpoint()
            if last and step.number < training.total_steps and not training.has_settled:
                out.note(f"stopped at step {step.number}; go on with --output {run.path} --resume")
                raise KeyboardInterrupt
    if training.has_settled:
        out.note(f"no image changed its strongest concept for {settings.patience} steps: done at step {training.step}")
    if main:
        weights = training.concepts.weights().expand(len(records), -1)
        run.save_concepts(training.objective.tokens, dict(training.concepts.embeddings.items()), weights)
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
    count = len(read_training_images(recipe))
    return Plan(
        run=str(training_folder(recipe, output, resume=resume, force=force).path),
        model=recipe.model,
        images=count,
        concepts=recipe.concepts.count,
        steps=settings.max_steps or count * settings.iterations_per_image,
        images_per_step=settings.batch_size * settings.gradient_accumulation * processes,
    )


def _log(run: Run, accelerator: Accelerator, step: Step) -> None:
    """A line of metrics.jsonl, and the same for whoever else follows the run."""
    values = {"loss": step.loss, "learning_rate": step.learning_rate} | step.terms
    run.log({"number": step.number} | values)
    accelerator.log(values, step=step.number)


def _preview(run: Run, recipe: Recipe, training: Training, accelerator: Accelerator, step: int) -> None:
    """previews/step-000100.png: a row of samples per concept, those that `ucd sample` would make at this step.

    They have the precision of the training unless the recipe asks for one.
    """
    each, settings, tokens = recipe.train.preview_images, recipe.sample, training.objective.tokens
    requests = [
        guided(default_prompt(recipe.concepts.property, token), settings.guidance_scale, settings.seed + n)
        for token in tokens
        for n in range(each)
    ]
    pictures = list(generate(_preview_model(recipe, training), requests, settings))
    sheet = contact_sheet({bare_name(token): pictures[k * each : (k + 1) * each] for k, token in enumerate(tokens)})
    write_png(run.path / "previews" / f"step-{step:06d}.png", sheet, {"run": run.name, "step": step})
    track_picture(accelerator, "preview", sheet, step)


def _preview_model(recipe: Recipe, training: Training) -> DiffusionModel:
    """The model that trains, or a copy where samples have another precision: casting it back would lose digits."""
    model, dtype = training.objective.model, dtype_of(recipe.sample.precision)
    if dtype in (None, model.dtype):
        return model
    copy = load_model(recipe.model, device=model.device, dtype=dtype)
    copy.set_concepts(training.objective.tokens, dict(training.concepts.embeddings.items()))
    return copy


def _describe(step: Step) -> dict[str, str]:
    return {"loss": f"{step.loss:.4f}"}
