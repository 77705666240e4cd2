"""Where a training goes: a new folder, one to go on with, or one to write over."""

from __future__ import annotations

from pathlib import Path

from concepts_cli.errors import UcdError
from concepts_cli.recipe import Recipe
from concepts_cli.runs.files import check_place, unwritable
from concepts_cli.runs.find import RUNS
from concepts_cli.runs.run import Run


def training_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """The run folder, not made yet. Raises UcdError when it can't go there, or there is something to be lost."""
    if resume and force:
        raise UcdError("--resume goes on, --force starts over", "give one of them")
    run = _choose(recipe, output, resume=resume, force=force)
    check_place(run.path)
    if resume and _holds_something(run.path):
        if not run.exists():
            raise UcdError(f"{run.path} is not empty and no run", "choose another --output")
        if run.is_finished() and not run.checkpoints():
            raise UcdError(f"{run.path} is finished and has no checkpoint to go on from", "start over with --force")
    return run


def make_training_folder(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """The same, made now. Trainings that start at once and were not told where get a folder each."""
    may_exist = bool(output or resume or force)
    while True:
        run = training_folder(recipe, output, resume=resume, force=force)
        try:
            run.path.mkdir(parents=True, exist_ok=may_exist)
            return run
        except OSError as error:
            if may_exist or not isinstance(error, FileExistsError):
                raise unwritable(run.path, error) from error


def _choose(recipe: Recipe, output: Path | None, *, resume: bool, force: bool) -> Run:
    """`output`, or runs/NAME, or with that taken runs/NAME-2 and so on; to resume, the newest of them."""
    numbered = [RUNS / recipe.name] + [RUNS / f"{recipe.name}-{n}" for n in range(2, 10_000)]
    if output is None:
        free = next(path for path in numbered if not path.exists())
        taken = numbered[: numbered.index(free)]
        if force:
            return Run(numbered[0])
        return Run(taken[-1] if resume and taken else free)
    if _holds_something(output) and not (resume or force):
        raise UcdError(f"--output {output} is not empty", "--resume goes on with it, --force writes over it")
    return Run(output)


def _holds_something(folder: Path) -> bool:
    """Whether there is more in it than what a killed process left half-written (see files.replacing)."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
