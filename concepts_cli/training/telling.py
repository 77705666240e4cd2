"""What a training says of itself on a terminal: before, during and after its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from concepts_cli.core.discovery import Step, Training
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import duration, sparkline
from concepts_cli.recipe import Recipe
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.training.at_hand import device_words
from concepts_cli.training.estimate import expected_seconds


def intention(recipe: Recipe, images: int, model: DiffusionModel, *, done: int = 0, starts: bool) -> str:
    """What a training will do after `done` steps, and how long it will take, in a line.

    `starts` says whether the words are still to be found in the images, if the recipe asks for that.
    """
    steps = max(recipe.train.steps(images) - done, 0)
    starts = starts and recipe.starts_from_images
    most = "up to " * (recipe.concepts.count is None)
    what = f"{most}{counted(recipe.concepts.most(), 'concept')} in {counted(images, 'image')}, with {recipe.model} on "
    what += f"{device_words(model.device)}: {'a start from the images, then ' * starts}{counted(steps, 'step')}"
    if recipe.train.compile:  # a call of another size would be compiled, too
        return what
    seconds = expected_seconds(recipe, images, steps, model, starts=starts)
    if not seconds:
        return what
    unit = 10 if seconds < 60 else 60 if seconds < 3600 else 600
    return f"{what}, about {duration(unit * math.ceil(seconds / unit))}"


def described(step: Step) -> dict[str, str]:
    return {"loss": f"{step.loss:.4f}"}


def state_lines(losses: Sequence[float], training: Training) -> list[str]:
    """A training in progress: its loss as a small line, and in how many images each concept is the strongest."""
    concepts = training.concepts
    owners = concepts.weights().argmax(dim=1).bincount(minlength=concepts.count).tolist()
    names = map(bare_name, training.objective.tokens)
    images = "  ".join(f"{name} {count}" for name, count in zip(names, owners, strict=True))
    return [f"loss    {sparkline(losses)}", f"images  {images}"]


def found(run: Run, most: int = 8) -> str:
    """What a training found, in a line: in how many images each concept is the strongest."""
    owners = run.weights.argmax(dim=1).tolist()
    first, *rest = [f"{bare_name(token)} in {owners.count(k)}" for k, token in enumerate(run.tokens)]
    shares = ", ".join([first.replace(" in ", " is strongest in "), *rest][:most])
    more = f" and {len(run.tokens) - most} more" if len(run.tokens) > most else ""
    return f"{counted(len(run.tokens), 'concept')} in {counted(len(owners), 'image')}: {shares}{more}"


def counted(count: int, name: str) -> str:
    """'1 image', '2 images'."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
