"""A run folder that keeps its model between the many calls of a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from concepts_cli.data.images import open_image
from concepts_cli.runs.run import Run as RunFolder
from concepts_cli.runs.run import bare_name

if TYPE_CHECKING:
    import torch

    from concepts_cli.models.interface import DiffusionModel

SHOWN_CONCEPTS, SHOWN_IMAGES = 20, 8  # rows, and images per row, when a notebook shows a run


class LoadedRun(RunFolder):
    """Loads its model once, and again only for another device or precision."""

    _kept: tuple[tuple[object, ...], DiffusionModel] | None = None

    def load_model(self, device: str | None = None, dtype: torch.dtype | None = None) -> DiffusionModel:
        if self._kept is None or self._kept[0] != (device, dtype):
            self._kept = None  # first, so that there are never two in memory
            self._kept = ((device, dtype), super().load_model(device, dtype))
        model = self._kept[1]
        self.teach(model)  # a composition may have taught it another run's concepts
        return model

    def strongest_images(self) -> dict[str, list[Image.Image]]:
        """The training images with most of each concept, strongest first. Raises UcdError if one is missing."""
        order = self.weights.argsort(dim=0, descending=True)[:SHOWN_IMAGES, :SHOWN_CONCEPTS].T.tolist()
        return {
            bare_name(token): [open_image(Path(self.images[i].path)) for i in rows]
            for token, rows in zip(self.tokens, order, strict=False)
        }
