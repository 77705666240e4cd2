"""A run folder that keeps its model between the many calls of a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concepts_cli.runs.run import Run as RunFolder

if TYPE_CHECKING:
    import torch

    from concepts_cli.models.interface import DiffusionModel


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
