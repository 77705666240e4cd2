"""Prompts that are encoded once, after which the text encoders are not needed: for concepts that come after them.

Such a concept is blank to the encoders, so a sentence is encoded alike whichever concept it mentions.

Shapes: P prompts, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from concepts_cli.models.conditioning import Conditioning

BLANK = -1


class KeptTexts:
    """Conditioning by token ids."""

    def __init__(self, ids: Tensor, is_learned: Tensor, conditioning: Conditioning):
        """Shapes: ids (P, T) of the first text encoder, is_learned (P, T) where a concept is."""
        self._rows = {key: row for row, key in enumerate(_keys(ids, is_learned))}
        different = list(self._rows.values())
        self._rows = dict(zip(self._rows, range(len(different)), strict=True))
        self._conditioning = conditioning[different]

    def look_up(self, ids: Tensor, is_learned: Tensor) -> Conditioning:
        """The conditioning of prompts (P, T). Raises KeyError for one that was not kept."""
        return self._conditioning[[self._rows[key] for key in _keys(ids, is_learned)]]


def _keys(ids: Tensor, is_learned: Tensor) -> list[bytes]:
    blanked = torch.where(is_learned, BLANK, ids).cpu().numpy()
    return [row.tobytes() for row in blanked]
