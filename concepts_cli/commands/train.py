"""`ucd train`: from a recipe to a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from concepts_cli.core.concepts import concept_tokens
from concepts_cli.core.discovery import Step, Training
from concepts_cli.core.sampling import generate, guided
from concepts_cli.data.images import ImageRecord
from concepts_cli.drawing.contact_sheet import contact_sheet
from concepts_cli.errors import UcdError
from concepts_cli.metrics.labels import read_labels
from concepts_cli.models import check_words, load_model
from concepts_cli.models.device import chosen_device, dtype_of
from concepts_cli.models.files import check_model
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output
from concepts_cli.processes.signals import signals_noted
from concepts_cli.recipe import Recipe
from concepts_cli.runs.contents import is_token
from concepts_cli.runs.files import write_png
from concepts_cli.runs.hub import check_hub, push_to_hub
from concepts_cli.runs.lock import RunLock
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.runs.trackers import check_trackers, start_trackers, track_picture
from concepts_cli.runs.training_folder import lock_training_folder, make_training_folder, remove_empty, training_folder
from concepts_cli.training.memory import MemoryPlan, memory_limit, plan_memory
from concepts_cli.training.resume import drop_later_metrics, image_digests, in_checkpoint_order
from concepts_cli.training.setup import (
    at_mirror,
    check_count,
    check_precision,
    choose_accelerator,
    earlier_run,
    load_training_model,
    memory_plan,
    prepare_training,
    read_training_images,
    warn_of_photographs,
    with_count,
)
from concepts_cli.training.telling import counted, described, intention, state_lines

SAVE_SECONDS = 120  # that a kill can cost at most


@dataclass(frozen=True)
class Plan:
    """What a training would do: N images, K concepts (at most, if the images tell how many), optimizer steps, and the
    run folder.
    """

    run: str
    model: str
    images: int
    concepts: int
    steps: int
    images_per_step: int
    memory: MemoryPlan | None  # None: it can't be told
    concepts_found: bool = False  # in the images: at most so many

    def rows(self) -> list[tuple[str, object]]:
        """Its table: a name and a value each."""
        own = {name: value for name, value in vars(self).items() if name not in ("memory", "concepts_found")}
        if self.concepts_found:
            own["concepts"] = f"up to {self.concepts}"
        return [*own.items(), *(self.memory.rows() if self.memory else ())]


def train(
    recipe: Recipe,
    *,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> Run:
    """Discover the recipe's concepts and write the run folder, which grows from the first step on.

    Raises what `Trainer` and its steps raise; KeyboardInterrupt after a signal, once a checkpoint is written.
    """
    trainer = Trainer(recipe, output=output, resume=resume, force=force, device=device, out=out)
    with signals_noted() as noted:
        for _ in trainer.steps(stop=lambda: bool(noted)):
            pass
    return trainer.run


class Trainer:
    """A training that writes a run folder. Creating one sets everything up; `steps` runs it.

    Raises UcdError for images that can't be read, a folder that is taken, and a model that can't be loaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        output: Path | None = None,
        resume: bool = False,
        force: bool = False,
        device: str | None = None,
        out: Output,
    ):
        recipe = at_mirror(recipe, out)
        check_before(recipe, device)
        self.out = out
        self._lock: RunLock | None = None  # the main process's
        self._created: list[Path] = []
        try:
            self._set_up(recipe, output, resume=resume, force=force, device=device)
        except BaseException:
            if self._lock:
                remove_empty(self._created, self._lock)
            self._release()
            raise

    def _set_up(self, recipe: Recipe, output: Path | None, *, resume: bool, force: bool, device: str | None) -> None:
        out, how = self.out, {"resume": resume, "force": force}
        self._accelerator = accelerator = choose_accelerator(recipe, device)
        self._is_main = main = accelerator.is_main_process
        # Report problems with the folder or the images before the long work, and before anything is written.
        chosen = None
        if main:
            chosen, self._lock = lock_training_folder(recipe, output, **how)
        chosen, records = broadcast_object_list([chosen, read_training_images(recipe, out) if main else None])
        state = Run(chosen).load_checkpoint() if resume else None
        if state:
            records = in_checkpoint_order(state, records, Run(chosen))
            _check_names(recipe, Run(chosen))
        earlier = None if state else earlier_run(recipe)
        if main and not state:
            _warn_of_images(recipe, records, out)
        recipe = _counted_as(recipe, Run(chosen) if state else earlier)
        check_count(recipe, len(records))
        memory = memory_plan(recipe, accelerator.device, out)
        recipe = memory.applied(recipe) if memory else recipe
        self._records, model = records, load_training_model(recipe, accelerator, out)
        # Only now, since the model may be wrong; and already, so that no other process works for the same folder.
        if main and not self._lock:
            self._lock, self._created = make_training_folder(recipe, output, **how)
        self.recipe = recipe = _resolved(recipe, model, Run(chosen) if state else earlier)
        if main and not out.quiet:
            done = int(state["step"]) if state else 0
            out.note(intention(recipe, len(records), model, done=done, starts=not (state or earlier)))
        self.training = prepare_training(
            recipe, records, model, accelerator, out, earlier=earlier, resumed=state is not None, memory=memory
        )
        self.tokens = self.training.objective.tokens
        if recipe.concepts.count is None:
            out.note(f"found {counted(len(self.tokens), 'kind')} of image")
            self.recipe = recipe = with_count(recipe, len(self.tokens))
        folder = self._lock.folder if self._lock else None
        self.run = Run(broadcast_object_list([folder])[0])  # every process uses the main one's
        if state:
            self.training.restore(state)
            if main:
                drop_later_metrics(self.run, self.training.step)
            out.note(f"resuming at step {self.training.step} of {self.training.total_steps}")
        if main:
            self.run.check_there()
        if main and not state:
            self.run.clear()
        if main:
            self.run.begin(recipe, records)
        if recipe.train.trackers:
            start_trackers(accelerator, recipe, self.run)

    def steps(self, stop: Callable[[], bool]) -> Iterator[Step]:
        """Take the remaining steps; each adds to the folder, which holds the finished run at the end.

        Raises UcdError if the loss diverges, and KeyboardInterrupt once `stop()` is true and a checkpoint is written.
        After that, another call continues.
        """
        if self._lock and not self._lock.take():  # again, if an interrupt has ended an earlier loop
            self.out.warn(f"the disk of {self.run.path} knows no locks: start no other training in it")
        try:
            yield from self._steps(stop)
        finally:
            self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.release()

    def _steps(self, stop: Callable[[], bool]) -> Iterator[Step]:
        training, settings, run = self.training, self.recipe.train, self.run
        losses: list[float] = []
        steps = self.out.track(
            training.steps(stop),
            total=training.total_steps,
            start=training.step,
            label="discovering",
            describe=described,
            below=lambda: state_lines(losses, training),
        )
        saved = time.monotonic()
        if settings.preview_every and training.step == 0 and self._is_main:
            _preview(run, self.recipe, training, self._accelerator, 0)  # to compare with what becomes of it
        for step in steps:
            losses.append(step.loss)
            last = step.stopped or step.number == training.total_steps
            if self._is_main and (step.number % settings.log_every == 0 or step.number in (1, training.total_steps)):
                _log(run, self._accelerator, step)
            if settings.preview_every and step.number % settings.preview_every == 0 and self._is_main:
                sheet = _preview(run, self.recipe, training, self._accelerator, step.number)
                self.out.note(f"preview: {sheet}")
            if last or step.number % settings.checkpoint_every == 0 or time.monotonic() - saved >= SAVE_SECONDS:
                self._save_checkpoint()
                saved = time.monotonic()
            if last and step.number < training.total_steps and not training.has_settled:
                self.out.note(f"stopped at step {step.number}; to continue: {run.resume_command}")
                raise KeyboardInterrupt
            yield step
        self._finish()

    def _save_checkpoint(self) -> None:
        if self._is_main:
            whole = self.training.state() | {"images": image_digests(self._records)}
            self.run.save_checkpoint(self.training.step, whole, self.recipe.train.keep_checkpoints)

    def _finish(self) -> None:
        training, settings, out = self.training, self.recipe.train, self.out
        if training.has_settled:
            out.note(
                f"no image changed its strongest concept for {settings.patience} steps: done at step {training.step}"
            )
        if self._is_main:
            weights = training.concepts.weights().expand(len(self._records), -1)
            embeddings = dict(training.concepts.embeddings.items())
            self.run.save_concepts(self.tokens, embeddings, weights)
            if settings.push_to_hub:
                out.note(f"published: {push_to_hub(self.run)}")
        self._accelerator.wait_for_everyone()
        self._accelerator.end_training()


def _resolved(recipe: Recipe, model: DiffusionModel, before: Run | None) -> Recipe:
    """The recipe with what it leaves open: the model's sampler, and the names of the run that it continues."""
    sample = replace(recipe.sample, scheduler=model.sampler_name(recipe.sample.scheduler))
    tokens = recipe.concepts.tokens or (before.recipe.concepts.tokens if before else None)
    return replace(recipe, sample=sample, concepts=replace(recipe.concepts, tokens=tokens))


def _counted_as(recipe: Recipe, before: Run | None) -> Recipe:
    """The recipe, with the number of concepts of the run that it continues if it names none."""
    return with_count(recipe, before.recipe.concepts.most()) if before and recipe.concepts.count is None else recipe


def _warn_of_images(recipe: Recipe, records: Sequence[ImageRecord], out: Output) -> None:
    """Warn of images that the model doesn't know, and of labels that are not theirs, as of a recipe's own images."""
    paths = [record.path for record in records]
    warn_of_photographs(recipe, list(map(Path, paths)), out)
    if recipe.evaluate.labels:
        try:
            read_labels(recipe.evaluate.labels, paths)
        except UcdError as error:
            out.warn(f"{error.message}: `ucd evaluate` can't use these labels")


def _check_names(recipe: Recipe, run: Run) -> None:
    """Raise UcdError for names that are not those which a resumed run began with."""
    names, before = recipe.concepts.tokens, run.recipe.concepts.tokens
    if names and concept_tokens(len(names), names) != concept_tokens(run.recipe.concepts.most(), before):
        raise UcdError(f"concepts.tokens: {run.path} has other names", "resume with those, or train a new run")


def check_before(recipe: Recipe, device: str | None) -> bool:
    """Raise UcdError for what can be checked before images are read and weights are loaded: a device that is missing or
    can't do the precision, names that are too long, trackers that are not installed, a missing login for publishing, a
    model that is incomplete or not supported, and a sampler that it doesn't have. Returns whether the model is checked:
    one on the hub can't be without a network.
    """
    check_precision(recipe, device)
    if wrong := [name for name in recipe.concepts.tokens or () if not is_token(*concept_tokens(1, [name]))]:
        raise UcdError(f"concepts.tokens: {wrong[0][:20]}… is too long for the name of a file", "use a shorter one")
    check_trackers(recipe.train.trackers or ())
    if recipe.train.push_to_hub:
        check_hub(recipe.train.push_to_hub)
    family = check_model(recipe.model, revision=recipe.model_revision)
    if family is None:
        return False
    family.sampler_name(recipe.sample.scheduler)
    if recipe.concepts.where not in family.places:
        problem = f"concepts.where: {recipe.model} takes no concepts at the {recipe.concepts.where} of its text encoder"
        raise UcdError(problem, f"--set concepts.where={family.places[0]}")
    return True


def plan(
    recipe: Recipe,
    *,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    processes: int = 1,
    tells_memory: bool = True,
    out: Output | None = None,
) -> Plan:
    """What `train` would do with this recipe. Raises what `train` would raise before it loads the model.

    What memory that takes (`tells_memory`) needs a moment, and a look at the GPU.
    """
    settings, out = recipe.train, out or Output(quiet=True)
    recipe = at_mirror(recipe, out)
    earlier: Run | None = None
    is_checked = check_before(recipe, device)
    folder = training_folder(recipe, output, resume=resume, force=force).path
    if not (resume and Run(folder).checkpoints()):
        earlier = earlier_run(recipe)
    recipe = _counted_as(recipe, Run(folder) if resume else earlier)
    if not is_checked:
        out.warn(f"the hub can't be reached: {recipe.model} is not checked")
    elif recipe.concepts.initial:
        vectors = recipe.concepts.vectors
        check_words(recipe.model, recipe.concepts.initial, vectors=vectors, revision=recipe.model_revision)
    records = read_training_images(recipe, out)
    _warn_of_images(recipe, records, out)
    count = len(records)
    check_count(recipe, count)
    try:
        memory = (
            plan_memory(recipe, memory_limit(recipe, chosen_device(device))) if is_checked and tells_memory else None
        )
    except UcdError as error:
        out.note(error.message)
        memory = None
    step, epoch = settings.batch_size * settings.gradient_accumulation * processes, count * recipe.data.repeats
    return Plan(
        run=str(folder),
        model=recipe.model,
        images=count,
        concepts=recipe.concepts.most(),
        steps=settings.steps(count),
        images_per_step=min(step, epoch) if settings.epoch_ends_step else step,
        memory=memory,
        concepts_found=recipe.concepts.count is None,
    )


def _log(run: Run, accelerator: Accelerator, step: Step) -> None:
    """Log a step to metrics.jsonl and to the trackers."""
    values = {"loss": step.loss, "learning_rate": step.learning_rate} | step.terms
    run.log({"number": step.number} | values)
    accelerator.log(values, step=step.number)


def _preview(run: Run, recipe: Recipe, training: Training, accelerator: Accelerator, step: int) -> Path:
    """Write previews/step-000100.png and return its path: one row of samples per concept, as `ucd sample` would make
    them at this step.

    They use the training's precision unless the recipe sets another.
    """
    each, settings, tokens = recipe.train.preview_images, recipe.sample, training.objective.tokens
    requests = [
        guided(recipe.concepts.prompt_of(token), settings.guidance_scale, settings.seed + n)
        for token in tokens
        for n in range(each)
    ]
    pictures = list(generate(_preview_model(recipe, training), requests, settings))
    sheet = contact_sheet({bare_name(token): pictures[k * each : (k + 1) * each] for k, token in enumerate(tokens)})
    run.check_there()
    path = run.path / "previews" / f"step-{step:06d}.png"
    write_png(path, sheet, {"run": run.name, "step": step})
    track_picture(accelerator, "preview", sheet, step)
    return path


def _preview_model(recipe: Recipe, training: Training) -> DiffusionModel:
    """The trained model, or a copy if samples use another precision: casting it back would lose digits."""
    model, dtype = training.objective.model, dtype_of(recipe.sample.precision)
    if dtype in (None, model.dtype):
        return model
    copy = load_model(recipe.model, revision=recipe.model_revision, device=model.device, dtype=dtype)
    concepts = training.concepts
    copy.set_concepts(training.objective.tokens, dict(concepts.embeddings.items()), concepts.where)
    return copy
