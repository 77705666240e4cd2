"""Log a training to accelerate's experiment trackers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import filter_trackers, get_available_trackers
from PIL import Image

from concepts_cli.errors import UcdError
from concepts_cli.paths import public_settings
from concepts_cli.recipe import Recipe
from concepts_cli.runs.run import Run

PACKAGES = {"comet_ml": "comet-ml"}  # where pip's name differs from the tracker's


def check_trackers(names: Sequence[str]) -> None:
    """Raise UcdError for trackers whose packages are not installed."""
    there = {tracker.value for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in there]:
        packages = " ".join(PACKAGES.get(name, name) for name in missing)
        raise UcdError(f"train.trackers: {', '.join(missing)} not installed", f"pip install {packages}")


def start_trackers(accelerator: Accelerator, recipe: Recipe, run: Run) -> None:
    """Start logging `run`; local files of trackers go to its folder `logs`."""
    accelerator.project_configuration.set_directories(str(run.path / "logs"))
    accelerator.log_with = filter_trackers(list(recipe.train.trackers or ()), str(run.path / "logs"))
    accelerator.init_trackers(run.name, config=dict(_flat(public_settings(recipe), "")))


def track_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Log an image to the trackers that take images."""
    pixels = np.asarray(picture.convert("RGB"))[None]  # (1, H, W, 3)
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: pixels}, step=step, **order)


def _flat(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, in types that all trackers take."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value if isinstance(value, (bool, int, float, str)) else str(value)
