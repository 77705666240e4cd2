"""The samples to measure: a run's own, made if there are none, or a folder with one subfolder per concept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepts_cli.data.images import SUFFIXES
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.names import file_name
from concepts_cli.pictures.plan import concept_plan
from concepts_cli.runs.files import png_text
from concepts_cli.runs.run import Run, bare_name


@dataclass(frozen=True)
class Samples:
    """N images, each of one of K concepts."""

    folder: Path
    concepts: tuple[str, ...]  # K names
    paths: tuple[Path, ...]  # N
    owners: np.ndarray  # (N,) which concept


def own_samples(run: Run, device: str | None, out: Output) -> Samples:
    """The run's samples: of each concept those in its folder, or else as many as the recipe wants of its prompt, "a
    photo of <t1>" or "a photo of a <t1>". A concept without any gets the recipe's number of them.

    Raises UcdError for samples of an earlier training, whose scores would be another run's.
    """
    folder = run.path / "samples"
    groups = {bare_name(token): _concept_images(run, folder, token) for token in run.tokens}
    ours = concept_plan(run, run.recipe.sample).concepts
    stale = [path for paths in groups.values() for path in paths if png_text(path).get("concepts", ours) != ours]
    if stale:
        problem = f"{len(stale)} samples in {folder} show concepts of an earlier training, such as {stale[0].name}"
        raise UcdError(problem, "replace them: ucd sample --concept all --force")
    if missing := [name for name, paths in groups.items() if not paths]:
        make_missing(concept_plan(run, run.recipe.sample, concepts=missing, device=device), out=out)
        groups |= {name: _images(folder / name) for name in missing}
    return _grouped(folder, groups)


def find_samples(folder: Path) -> Samples:
    """The samples in another folder: each subfolder with images is a concept."""
    if not folder.is_dir():
        raise UcdError(f"no such folder: {folder}", "--samples names a folder with one subfolder of images per concept")
    inside = {path.name: _images(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    groups = {name: paths for name, paths in inside.items() if paths}
    if not groups:
        raise UcdError(f"no samples in {folder}", "expected one subfolder of images per concept, such as t1/00000.png")
    return _grouped(folder, groups)


def _concept_images(run: Run, folder: Path, token: str) -> list[Path]:
    if own := _images(folder / bare_name(token)):
        return own
    prompts = (f"a photo of {token}", f"a photo of a {token}")
    asked = [
        _images(folder / file_name(prompt)) for prompt in prompts if run.recipe.concepts.prompt_of(token) in prompts
    ]
    return next((images for images in asked if len(images) >= run.recipe.sample.num_images), [])


def _images(folder: Path) -> list[Path]:
    files = (path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(files)


def _grouped(folder: Path, groups: dict[str, list[Path]]) -> Samples:
    paths = tuple(path for group in groups.values() for path in group)
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
    return Samples(folder, tuple(groups), paths, owners)
