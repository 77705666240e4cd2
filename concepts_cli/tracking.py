"""What follows a run from outside: accelerate's trackers, and the Hugging Face hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import filter_trackers, get_available_trackers
from PIL import Image

from concepts_cli.errors import UcdError
from concepts_cli.recipe import Recipe
from concepts_cli.run_dir import Run

PACKAGES = {"comet_ml": "comet-ml"}  # where pip's name is another than the tracker's


def check_trackers(names: Sequence[str]) -> None:
    """Raise UcdError for a tracker whose package is not installed."""
    there = {tracker.value for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in there]:
        packages = " ".join(PACKAGES.get(name, name) for name in missing)
        raise UcdError(f"train.trackers: {', '.join(missing)} not installed", f"pip install {packages}")


def start_trackers(accelerator: Accelerator, recipe: Recipe, run: Run) -> None:
    """Begin to follow `run`; what trackers write themselves goes to its folder `logs`."""
    accelerator.project_configuration.set_directories(str(run.path / "logs"))
    accelerator.log_with = filter_trackers(list(recipe.train.trackers or ()), str(run.path / "logs"))
    accelerator.init_trackers(run.name, config=dict(_flat(recipe, "")))


def track_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Hand a picture to those trackers that take any."""
    pixels = np.asarray(picture.convert("RGB"))[None]  # (1, H, W, 3)
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: pixels}, step=step, **order)


def check_hub(repository: str) -> None:
    """Raise UcdError before long work when nobody is logged in to the hub."""
    from huggingface_hub import get_token

    if not get_token():
        raise UcdError(f"train.push_to_hub: not logged in, can't publish {repository}", "hf auth login, or $HF_TOKEN")


def push_to_hub(run: Run) -> str:
    """Publish a finished run, checkpoints left out; returns its address. Raises UcdError (1); the run is kept."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, repository = HfApi(), run.recipe.train.push_to_hub
    try:
        created = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            folder_path=run.path,
            commit_message=f"{run.name}: {len(run.tokens)} concepts",
            ignore_patterns=["checkpoints/*", "logs/*", ".*"],
        )
        card = _card(run).encode()
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=created.repo_id)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UcdError(
            f"could not publish to {repository}: {reason}",
            f"the run is whole in {run.path}: hf upload {repository} {run.path}",
            exit_code=1,
        ) from error
    return str(created)


def _card(run: Run) -> str:
    """What the hub shows: how to load the concepts."""
    base = f"base_model: {run.recipe.model}\n" if "/" in run.recipe.model and run.recipe.model[0] not in "/.~" else ""
    return (
        f"---\n{base}library_name: diffusers\ntags: [textual_inversion, concept-discovery]\n---\n\n# {run.name}\n\n"
        f"{len(run.tokens)} visual concepts, discovered in {len(run.images)} unlabelled images with `ucd`.\n\n"
        f"```python\npipeline.load_textual_inversion('{run.recipe.train.push_to_hub}', "
        "weight_name='embeddings/t1.safetensors')\n```\n"
    )


def _flat(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, as something that all trackers take."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value if isinstance(value, (bool, int, float, str)) else str(value)
