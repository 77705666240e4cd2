"""`ucd init`: the recipe that a folder of images would be trained with, each value with its reason."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from concepts_cli.data.finding import find_images
from concepts_cli.errors import UcdError
from concepts_cli.models.device import chosen_device
from concepts_cli.output import Output
from concepts_cli.paths import holds_images, public_path
from concepts_cli.recipe import BUILT_IN, Recipe, choose_recipe, recipe_of
from concepts_cli.recipe.writing import yaml_scalar, yaml_setting
from concepts_cli.runs.files import check_file, write_text
from concepts_cli.training.at_hand import cached_models, device_words
from concepts_cli.training.choosing import at_hand
from concepts_cli.training.setup import warn_of_photographs

ALWAYS = ("model", "data.images", "data.resolution", "concepts.count", "train.batch_size")  # also with their defaults
LEFT_OUT = ("name", "evaluate.resnet_class_names")  # the file's name is the run's
REASONS = {
    "data.resolution": "null: the size that the model was trained on",
    "train.batch_size": "images at a time, halved by itself until they fit into memory",
    "train.mixed_precision": "half the memory, and faster, on this GPU",
    "evaluate.metrics": "it needs no labels",
}


def init(
    folder: Path,
    *,
    model: str | None = None,
    output: Path | None = None,
    force: bool = False,
    device: str | None = None,
    out: Output | None = None,
) -> Path:
    """Write the recipe that `train` would use for a folder of images, a list or a tar to FOLDER.yaml here, or to
    `output`.

    It has the settings that matter for these images, this model and this device, each with its reason. Returns its
    path. Raises UcdError for a folder without images, and for a file that exists already, unless `force`.
    """
    if not (os.path.isdir(folder) or (holds_images(folder.name) and folder.is_file())):
        raise UcdError(f"no such folder of images: {folder}", "ucd init FOLDER, or a list or a tar of images")
    images = find_images([folder])
    recipe = choose_recipe(folder, {"model": model} if model else {}, at_hand(device))
    warn_of_photographs(recipe, images, out or Output(quiet=True))
    path = output or Path(f"{recipe.name}.yaml")
    check_file(path, force=force)
    where = _relative(folder, path.parent)
    reasons = REASONS | {
        "model": _why(recipe.model, device, named=bool(model)),
        "data.images": f"{len(images):,} images",
    }
    if recipe.concepts.count is None:
        reasons["concepts.count"] = "as many kinds of thing as the images tell apart; or a number, if you know it"
    usual = recipe_of({"name": recipe.name, "model": recipe.model, "data.images": where})
    header = (
        f"# How to discover the concepts in {public_path(folder)}, as `ucd init` suggests it for this machine.\n#\n"
    )
    header += f"#     ucd train {shlex.quote(path.name)}\n\n"
    write_text(path, header + "".join(_lines(recipe, usual, reasons, where)))
    return path


def _relative(folder: Path, start: Path) -> str:
    """The folder as a recipe in `start` names it."""
    inside = folder.resolve().is_relative_to(start.resolve())
    text = os.path.relpath(folder.resolve(), start.resolve()) if inside else str(folder.resolve())
    return text.replace("$", "$$")


def _why(model: str, device: str | None, *, named: bool) -> str:
    chosen = chosen_device(device)
    here = f"the {'CPU' if chosen.type == 'cpu' else 'GPU'} here has {device_words(chosen)}"
    if model == BUILT_IN:
        knows = "the built-in one, which only knows drawings of 24 things"
        return knows if named else f"{knows}; others need a GPU, and {here.replace('the CPU here has', 'here are')}"
    there = "downloaded already" if model in cached_models() else "downloaded on first use"
    return there if named or os.path.isdir(model) else f"{there}; {here}"


def _lines(recipe: Recipe, usual: Recipe, reasons: Mapping[str, str], images: str) -> Iterator[str]:
    """The settings of a recipe that are not as usual, and those of ALWAYS, in the schema's order."""
    section = ""
    for key, value, default, field in _settings(recipe, usual):
        if key in LEFT_OUT or (value == default and key not in ALWAYS):
            continue
        before, _, name = key.rpartition(".")
        if before != section:
            yield f"\n{before}:\n"
            section = before
        shown = yaml_scalar(images) if key == "data.images" else yaml_setting(field, value)
        yield f"{'  ' if before else ''}{name}: {shown}  # {reasons.get(key, field.metadata['doc'])}\n"


def _settings(recipe: Any, usual: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, dataclasses.Field[Any]]]:
    """Every setting: its dotted name, its value, the usual one, and its field; sections come last."""
    fields = sorted(dataclasses.fields(recipe), key=lambda field: dataclasses.is_dataclass(getattr(recipe, field.name)))
    for field in fields:
        value, default = getattr(recipe, field.name), getattr(usual, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, default, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, default, field
