"""Discover concepts step by step: the caller watches, plots, and decides when to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from concepts_cli.commands.train import Trainer
from concepts_cli.core.discovery import Step
from concepts_cli.errors import UcdError
from concepts_cli.interface.run import Run
from concepts_cli.interface.silence import CallerOutput, silenced
from concepts_cli.processes.signals import signals_noted
from concepts_cli.recipe import Recipe
from concepts_cli.runs.training_folder import recipe_and_folder
from concepts_cli.training.choosing import at_hand


class Discovery(Iterator[Step]):
    """A training in progress: an iterator of its steps. `finish` takes the remaining ones and returns the run.

    Leaving the loop pauses the training; another loop continues it. Interrupting it (Ctrl-C, a kernel's stop button)
    finishes the current step, writes a checkpoint and raises KeyboardInterrupt; after that, another loop continues too,
    and so does `discover(..., output=discovery.path, resume=True)` in another session.
    """

    def __init__(self, trainer: Trainer, device: str | None = None):
        self._trainer, self._device = trainer, device
        self._steps: Iterator[Step] | None = None
        self._signals: list[float] = []  # during the step in progress
        self._pending = False  # whether a signal came too late for the previous step

    @property
    def path(self) -> Path:
        """The run folder, which grows with every step."""
        return self._trainer.run.path

    @property
    def total_steps(self) -> int:
        """The total number of steps, unless patience ends them early."""
        return self._trainer.training.total_steps

    def __next__(self) -> Step:
        """Take one step. Raises UcdError when the loss is no longer finite or an image doesn't fit into memory."""
        with silenced(), signals_noted() as self._signals:
            if self._steps is None:
                self._steps = self._trainer.steps(stop=lambda: self._pending or bool(self._signals))
            try:
                step = next(self._steps)
            except StopIteration:
                raise
            except BaseException:
                self._steps, self._pending = None, False  # an ended generator would look like a finished training
                raise
            self._pending = bool(self._signals)
            return step

    def finish(self) -> Run:
        """Take the remaining steps and return the run. Raises what a step raises, again if it did before.

        run = ucd.discover("quickstart").finish()
        """
        for _ in self:
            pass
        if not self._trainer.run.is_finished():
            raise UcdError(f"{self.path} is not finished", "discover it again with resume=True")
        return Run(self.path, device=self._device)

    def __repr__(self) -> str:
        return f"<Discovery in {self.path}, step {self._trainer.training.step} of {self.total_steps}>"


@silenced()
def discover(
    source: Recipe | str | os.PathLike[str],
    *,
    count: int | Literal["auto"] | None = None,
    model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    progress: bool = False,
) -> Discovery:
    """Set up a discovery of concepts: `ucd train`, one step at a time.

    `source` is a folder of images, a recipe file, the name of a shipped recipe, or a Recipe. A folder gets the
    defaults and the model that is at hand; without a GPU that is `mini`: `ucd init` writes them down. `count` is the
    number of concepts, or "auto", which a folder gets;
    `overrides` are other settings by their dotted names. `output`, `resume`, `force` and `device` are those of the
    command: the run folder is `runs/NAME` unless `output` says otherwise, and a run is resumed by its own recipe, which
    only `count`, `model` and `overrides` change. With `progress` a bar is drawn on stderr.

    Raises UcdError for a mistake in the recipe, images that can't be read, a folder that is taken, and a model that
    can't be loaded.

        discovery = ucd.discover("photos/", count=5, model="mini", overrides={"train.max_steps": 100})
        losses = [step.loss for step in discovery]
        run = discovery.finish()
    """
    named = {"concepts.count": count, "model": model}
    given = {key: value for key, value in named.items() if value is not None}
    folder = Path(output) if output is not None else None
    changes = given | dict(overrides or {})
    recipe, folder = recipe_and_folder(source, changes, folder, resume=resume, at_hand=at_hand(device))
    trainer = Trainer(
        recipe,
        output=folder,
        resume=resume,
        force=force,
        device=device,
        out=CallerOutput(progress),
    )
    return Discovery(trainer, device)
