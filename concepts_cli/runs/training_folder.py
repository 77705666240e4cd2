"""Choose the folder of a training: a new one, one to resume, or one to overwrite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from concepts_cli.errors import UcdError
from concepts_cli.recipe import Recipe, choose_recipe, load_recipe
from concepts_cli.recipe.loading import AtHand, Overrides
from concepts_cli.runs.files import check_place, unwritable
from concepts_cli.runs.find import RUNS
from concepts_cli.runs.lock import RunLock
from concepts_cli.runs.run import IMAGES, RECIPE, Run


def training_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """The run folder, not created yet. Raises UcdError if the folder can't be written or holds results."""
    if resume and force:
        raise UcdError("--resume continues a run and --force starts over", "use one of them")
    run = _choose(recipe, output, resume=resume, force=force)
    check_place(run.path)
    run.check_links()
    if resume and _holds_something(run.path):
        if not run.exists():
            raise UcdError(f"{run.path} is not empty, and not a run", "choose another --output")
        if run.is_finished() and not run.checkpoints():
            raise UcdError(f"{run.path} is finished and has no checkpoint to resume from", "start over with --force")
    return run


def recipe_and_folder(
    source: Recipe | str | os.PathLike[str],
    overrides: Overrides,
    output: Path | None,
    *,
    resume: bool,
    at_hand: AtHand | None = None,
) -> tuple[Recipe, Path | None]:
    """The recipe to train with, and its folder if that is known: a run is resumed by its own recipe.

    `source` and `at_hand` are what `choose_recipe` takes, or to resume a run's folder or its recipe.yaml. What
    `overrides` don't change stays as the run began. Raises what `choose_recipe` raises.
    """
    if not resume:
        return choose_recipe(source, overrides, at_hand), output
    if output is None and not isinstance(source, Recipe):
        place = Path(source)
        inside = place.parent if place.name == RECIPE else place
        output = inside if (inside / RECIPE).is_file() and (inside / IMAGES).is_file() else None
    if output is None:
        output = _choose(choose_recipe(source, overrides, at_hand), None, resume=True, force=False).path
    if not (output / RECIPE).is_file():
        return choose_recipe(source, overrides, at_hand), output
    return load_recipe(output / RECIPE, overrides), output


def lock_training_folder(
    recipe: Recipe, output: Path | None, *, resume: bool, force: bool
) -> tuple[Path, RunLock | None]:
    """The run folder, locked before anything of it is read, or without a lock if it is not created yet.

    Raises what `training_folder` raises, and UcdError if another process holds the lock.
    """
    run = training_folder(recipe, output, resume=resume, force=force)
    return run.path, _locked(recipe, run.path, resume=resume, force=force) if run.path.is_dir() else None


def make_training_folder(
    recipe: Recipe, output: Path | None, *, resume: bool, force: bool
) -> tuple[RunLock, list[Path]]:
    """Create the run folder and lock it; return the lock and the folders that were not there before, inner ones first.

    Trainings that start at the same time without --output get separate folders. Raises what `lock_training_folder`
    raises.
    """
    may_exist = bool(output or resume or force)
    while True:
        run = training_folder(recipe, output, resume=resume, force=force)
        created = [place for place in (run.path, *run.path.parents) if not place.exists()]
        try:
            run.path.mkdir(parents=True, exist_ok=may_exist)
            return _locked(recipe, run.path, resume=resume, force=force), created
        except OSError as error:
            if may_exist or not isinstance(error, FileExistsError):
                raise unwritable(run.path, error) from error


def remove_empty(created: Sequence[Path], lock: RunLock) -> None:
    """Delete created folders again that hold nothing but the lock, which is held."""
    if created and not _holds_something(lock.folder):
        with suppress(OSError):
            lock.delete_files()
            for place in created:
                place.rmdir()


def _locked(recipe: Recipe, folder: Path, *, resume: bool, force: bool) -> RunLock:
    lock = RunLock(folder)
    lock.take()
    try:
        training_folder(recipe, folder, resume=resume, force=force)  # another process may have filled it meanwhile
    except UcdError:
        lock.release()
        raise
    return lock


def _choose(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """`output`, or the first free of runs/NAME, runs/NAME-2, …; to resume, the last that exists."""
    numbered = [RUNS / recipe.name] + [RUNS / f"{recipe.name}-{n}" for n in range(2, 10_000)]
    if output is None:
        free = next(path for path in numbered if not path.exists())
        taken = numbered[: numbered.index(free)]
        if force:
            return Run(numbered[0])
        return Run(taken[-1] if resume and taken else free)
    if _holds_something(output) and not (resume or force):
        raise UcdError(f"--output {output} is not empty", "--resume continues it, --force overwrites it")
    return Run(output)


def _holds_something(folder: Path) -> bool:
    """Whether the folder holds more than what a killed process left half-written (see files.replacing)."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
