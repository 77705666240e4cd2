"""Concept embeddings in memory and in files, one per text encoder.

In memory, a mapping from text encoder to a tensor (K, D), or (K, V, D) for concepts of V vectors. In a file, a model
with one text encoder has the tensor `embeddings`, any other has one tensor per encoder, such as
`embeddings.text_encoder_2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from concepts_cli.models import SOLE_ENCODER

if TYPE_CHECKING:
    from torch import Tensor


def to_file(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings by text encoder, as tensors by their names in a file."""
    if set(embeddings) == {SOLE_ENCODER}:
        return {"embeddings": embeddings[SOLE_ENCODER]}
    return {f"embeddings.{encoder}": tensor for encoder, tensor in embeddings.items()}


def vectors_of(embeddings: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The vectors of concept k by text encoder, (V, D) each, as other tools' files have them."""
    return {encoder: table[k].reshape(-1, table.shape[-1]) for encoder, table in embeddings.items()}


def from_file(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embeddings among a file's tensors, by text encoder; empty if there are none."""
    if "embeddings" in tensors:
        return {SOLE_ENCODER: tensors["embeddings"]}
    prefix = "embeddings."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
