"""A run folder that keeps its model between the many calls of a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.models import source_of
from concepts_cli.models.device import DTYPES, chosen_device, default_precision
from concepts_cli.runs.run import Run as RunFolder
from concepts_cli.runs.run import bare_name

if TYPE_CHECKING:
    import torch

    from concepts_cli.models.interface import DiffusionModel

SHOWN_CONCEPTS, SHOWN_IMAGES = 20, 8  # rows, and images per row, when a notebook shows a run


Models = dict[tuple[object, ...], "DiffusionModel"]


class LoadedRun(RunFolder):
    """Loads its model once, and again only for another device or precision. Runs that share `models` share it."""

    def __init__(self, path: Path, models: Models | None = None):
        super().__init__(path)
        self.models: Models = {} if models is None else models

    def load_model(self, device: str | None = None, dtype: torch.dtype | None = None) -> DiffusionModel:
        source = source_of(self.recipe.model), self.recipe.model_revision
        where = chosen_device(device)
        kept = (*source, where, dtype or DTYPES[default_precision(where)])
        if kept not in self.models:
            for other in [key for key in self.models if key[:2] == source]:
                del self.models[other]  # first, so that there are never two of it in memory
            self.models[kept] = super().load_model(device, dtype)
        model = self.models[kept]
        self.teach(model)  # another run may have taught it its own concepts
        return model

    def strongest_images(self) -> dict[str, list[Image.Image]]:
        """The training images with most of each concept, strongest first. Raises UcdError if one is missing."""
        order = self.weights.argsort(dim=0, descending=True)[:SHOWN_IMAGES, :SHOWN_CONCEPTS].T.tolist()
        return {
            bare_name(token): [open_image(Path(self.images[i].path)) for i in rows]
            for token, rows in zip(self.tokens, order, strict=False)
        }
