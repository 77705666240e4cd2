"""A run folder, read and written.

After training, every command needs only this folder and the model it names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.embeddings import to_file, vectors_of
from concepts_cli.paths import public_path
from concepts_cli.recipe import Recipe, dump_recipe, load_recipe
from concepts_cli.runs.contents import read_checkpoint, read_concepts, read_images, read_weights
from concepts_cli.runs.files import unwritable, write_safetensors, write_text
from concepts_cli.runs.reading import damaged, read_bytes
from concepts_cli.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from concepts_cli.data.images import ImageRecord
    from concepts_cli.models.interface import DiffusionModel


RECIPE, CONCEPTS, WEIGHTS, IMAGES = "recipe.yaml", "concepts.safetensors", "weights.safetensors", "images.jsonl"
EVALUATION = "evaluation.json"
STATE = "state.safetensors"  # of a checkpoint
MAX_RECIPE_BYTES = 2**24  # it may list thousands of images
RUN_FILES = (
    *(RECIPE, CONCEPTS, WEIGHTS, IMAGES, "metrics.jsonl", EVALUATION, "report.html"),
    *("embeddings", "checkpoints", "previews", "samples", "compositions", "metrics", "heatmaps", "exports"),
)


class Run:
    """A finished or unfinished run, loaded lazily."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def recipe(self) -> Recipe:
        path = self.path / RECIPE
        with suppress(FileNotFoundError):  # load_recipe says so
            read_bytes(path, MAX_RECIPE_BYTES)
        return load_recipe(path)

    @cached_property
    def _concepts(self) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        try:
            return read_concepts(self.path / CONCEPTS)
        except FileNotFoundError as error:
            hint = f"finish it with `{self.resume_command}`" if self.exists() else None
            raise UcdError(
                f"{self.path} has no concepts yet", hint or "train one with `ucd train quickstart`"
            ) from error

    @property
    def tokens(self) -> tuple[str, ...]:
        """`<t1>`, `<t2>`, … in the order of the embeddings' rows."""
        return self._concepts[0]

    @property
    def embeddings(self) -> dict[str, Tensor]:
        """By text encoder, (K, D) or, of V vectors, (K, V, D), float32."""
        return self._concepts[1]

    @cached_property
    def weights(self) -> Tensor:
        """(N, K): the weight of concept k in training image i."""
        with self._required(WEIGHTS) as path:
            return read_weights(path, len(self.images), self.tokens)

    @cached_property
    def images(self) -> list[ImageRecord]:
        """The training images; entry i belongs to row i of the weights."""
        with self._required(IMAGES) as path:
            return read_images(path)

    @property
    def fields(self) -> Fields:
        """Where other images have the captions and masks that this run's images have, if they have them."""
        return Fields(captions=self.recipe.data.captions, masks=self.recipe.data.masks, optional=True)

    def has_images(self) -> bool:
        """Whether it knows its training images; one of imported words may not."""
        return os.path.isfile(self.path / IMAGES)

    @contextmanager
    def _required(self, name: str) -> Iterator[Path]:
        """The path of a file of the run. Raises UcdError if it turns out to be missing."""
        try:
            yield self.path / name
        except FileNotFoundError as error:
            raise UcdError(f"{self.path / name} is missing", "train again, or restore the file") from error

    def check_links(self) -> None:
        """Raise UcdError for a link that leads out of the folder: what is written and shown here stays here."""
        inside, places = self.path.resolve(), [self.path / name for name in RUN_FILES]
        while places:
            place = places.pop()
            if place.is_symlink() and not place.resolve().is_relative_to(inside):
                raise damaged(place, "it is a link out of the run", "replace it by what it leads to")
            if place.is_dir():
                with os.scandir(place) as entries:
                    places += [Path(entry) for entry in entries if entry.is_symlink() or entry.is_dir()]

    def exists(self) -> bool:
        return os.path.isfile(self.path / RECIPE)

    def is_finished(self) -> bool:
        return os.path.isfile(self.path / CONCEPTS)

    @property
    def resume_command(self) -> str:
        return shlex.join(["ucd", "train", str(self.path), "--resume"])

    def token(self, concept: str) -> str:
        """`<t3>` for `t3` or `<t3>`. Raises UcdError with the closest name and those the run has."""
        bare = concept.strip().removeprefix("<").removesuffix(">")
        if f"<{bare}>" in self.tokens:
            return f"<{bare}>"
        names = tuple(bare_name(token) for token in self.tokens)
        are_numbered = len(names) > 2 and names == tuple(f"t{n}" for n in range(1, len(names) + 1))
        have = f"{names[0]} to {names[-1]}" if are_numbered else ", ".join(names)
        hint = f"{did_you_mean(bare, names, otherwise='')} {self.path} has {have}"
        raise UcdError(f"no concept {concept!r}", hint.strip())

    def load_model(self, device: str | None = None, dtype: torch.dtype | None = None) -> DiffusionModel:
        """The run's model with its concepts in the vocabulary."""
        from concepts_cli.models import load_model

        model = load_model(self.recipe.model, revision=self.recipe.model_revision, device=device, dtype=dtype)
        self.teach(model)
        return model

    def check_fits(self, model: DiffusionModel) -> None:
        """Raise UcdError if the concepts' width differs from the model's."""
        widths = [
            {encoder: table.shape[-1] for encoder, table in tables.items()}
            for tables in (self.embeddings, model.tables)
        ]
        if widths[0] != widths[1]:
            have, need = (" and ".join(str(each[encoder]) for encoder in sorted(each)) for each in widths)
            raise UcdError(
                f"the concepts of {self.path} have {have} dimensions, {model.name} has {need}",
                "they were trained on another model, or it has changed since",
            )

    def teach(self, model: DiffusionModel) -> None:
        """Add the run's concepts to the model's vocabulary. Raises UcdError if their width differs from the model's."""
        self.check_fits(model)
        model.set_concepts(self.tokens, self.embeddings, self.recipe.concepts.where)

    # ---- writing

    def check_there(self) -> None:
        """Raise UcdError (1) if the folder is gone, rather than write a part of it anew."""
        if not self.path.is_dir():
            raise UcdError(f"{self.path} is gone", "it was deleted or moved while it was written", exit_code=1)

    def begin(self, recipe: Recipe, images: Sequence[ImageRecord]) -> None:
        """Write the recipe and the list of images, if there are any, before the first step."""
        write_text(self.path / RECIPE, dump_recipe(recipe))
        if images:
            write_text(self.path / IMAGES, "".join(map(image_line, images)))

    def save_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor], weights: Tensor | None) -> None:
        """Write the concepts, embeddings by text encoder, one file per concept for other tools, and the weights (N, K),
        if there are any.
        """
        self.check_there()
        model = public_path(self.recipe.model)
        metadata = {"tokens": json.dumps(list(tokens)), "model": model, "ucd": __version__} | _versions()
        if weights is not None:
            write_safetensors(self.path / WEIGHTS, {"weights": weights}, {"tokens": metadata["tokens"]})
        # Most tools have no place for vectors after the text encoder; `ucd export` writes them for the one that has.
        for k, token in enumerate(tokens if self.recipe.concepts.where == "input" else ()):
            path = self.path / "embeddings" / f"{bare_name(token)}.safetensors"
            rows = vectors_of(embeddings, k)
            named = {token: rows[SOLE_ENCODER]} if set(rows) == {SOLE_ENCODER} else rows
            write_safetensors(path, named, {"model": model})
        write_safetensors(self.path / CONCEPTS, to_file(embeddings), metadata)  # last: it marks the run as finished

    def clear(self) -> None:
        """Delete what an earlier run left in this folder; files that ucd did not write stay."""
        if self.exists():
            for path in (*map(self.path.joinpath, RUN_FILES), *self.path.glob("report-with-*.html")):
                try:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                except OSError as error:
                    raise UcdError(f"can't delete {path}: {error.strerror or error}", exit_code=1) from error

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        whole = (path.parent for path in (self.path / "checkpoints").glob(f"step-*/{STATE}"))
        return sorted((path for path in whole if path.name[5:].isdecimal()), key=lambda path: int(path.name[5:]))

    def load_checkpoint(self) -> dict[str, Tensor] | None:
        """The state in the newest checkpoint, or None if there is none. Raises UcdError for a damaged one."""
        if not (checkpoints := self.checkpoints()):
            return None
        newest = checkpoints[-1]
        return read_checkpoint(newest / STATE, int(newest.name[5:]))

    def save_checkpoint(self, step: int, state: dict[str, Tensor], keep: int) -> Path:
        """Write checkpoints/step-000500/ and delete all but the newest `keep`."""
        self.check_there()
        folder = self.path / "checkpoints" / f"step-{step:06d}"
        write_safetensors(folder / STATE, state)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self.check_there()
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise unwritable(path, error) from error


def image_line(record: ImageRecord) -> str:
    """An image's line of images.jsonl."""
    return json.dumps({key: value for key, value in asdict(record).items() if value}) + "\n"


def bare_name(token: str) -> str:
    """`t3` of `<t3>`."""
    return token.removeprefix("<").removesuffix(">")


def _versions() -> dict[str, str]:
    import diffusers
    import torch
    import transformers

    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__}
