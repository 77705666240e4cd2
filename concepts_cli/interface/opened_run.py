"""A run folder that was opened: what it holds, without making anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from concepts_cli.data.images import ImageRecord
from concepts_cli.drawing.contact_sheet import contact_sheet
from concepts_cli.errors import UcdError
from concepts_cli.interface.loaded_run import LoadedRun
from concepts_cli.interface.options import AnyPath
from concepts_cli.interface.results import png
from concepts_cli.interface.silence import silenced
from concepts_cli.models.device import dtype_of
from concepts_cli.recipe import Recipe
from concepts_cli.runs.run import bare_name

if TYPE_CHECKING:
    from concepts_cli.models.interface import DiffusionModel


class OpenedRun:
    """The contents of a run folder. Shapes: N training images, K concepts."""

    def __init__(self, path: AnyPath, *, device: str | None = None, beside: OpenedRun | None = None):
        self._folder: LoadedRun = LoadedRun(Path(path), beside._folder.models if beside else None)
        self._device: str | None = beside._device if beside and device is None else device

    @property
    def path(self) -> Path:
        return self._folder.path

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def recipe(self) -> Recipe:
        """Every setting that was used. Raises UcdError when it is missing or damaged."""
        return self._folder.recipe

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the K concepts: t1, t2 and so on. Raises UcdError for a run that is not finished."""
        return tuple(map(bare_name, self._folder.tokens))

    @property
    def embeddings(self) -> dict[str, Tensor]:
        """The learned words by text encoder, (K, D) or, of V vectors, (K, V, D).

        Raises UcdError for a run that is not finished.
        """
        return self._folder.embeddings

    @property
    def weights(self) -> Tensor:
        """(N, K): how much of concept k is in training image i. Raises UcdError when they are missing or damaged.

        strongest = [run.concepts[k] for k in run.weights.argmax(dim=1)]
        """
        return self._folder.weights

    @property
    def images(self) -> list[ImageRecord]:
        """The N training images, in the order of the weights' rows: path, sha256, width, height."""
        return self._folder.images

    @property
    @silenced()
    def model(self) -> DiffusionModel:
        """The frozen model that pictures are made with, and the concepts in its vocabulary.

        Raises UcdError when it can't be loaded.
        """
        return self._folder.load_model(self._device, dtype_of(self.recipe.sample.precision))

    def __repr__(self) -> str:
        if not self._folder.is_finished():
            return f"<Run {self.path}, not finished>"
        images = f" in {len(self.images)} images" if self._folder.has_images() else ""
        return f"<Run {self.path}: {len(self.concepts)} concepts{images}, {self.recipe.model}>"

    def _repr_png_(self) -> bytes | None:
        """The training images with most of each concept, strongest first; None if one is missing."""
        try:
            rows = self._folder.strongest_images()
        except UcdError:
            return None
        return png(contact_sheet(rows, title=self.name, detail="the images with most of each concept"))
