"""Batches whose content only the model family knows: prompts as tokens, and as the text encoders' output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

Rows = slice | Sequence[int] | Tensor


class TensorBatch:
    """B rows as named tensors, each (B, ...). Callers index, join and repeat rows and never look inside."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Rows) -> Self:
        """These rows, in this order; `rows` is a slice, or any number of indices (M,)."""
        return type(self)({name: tensor[rows] for name, tensor in self.tensors.items()})

    def repeat(self, times: int) -> Self:
        """The whole batch `times` times, (times * B) rows; a single row is repeated without a copy."""
        return type(self)(
            {name: tensor.expand(times, *tensor.shape).flatten(0, 1) for name, tensor in self.tensors.items()}
        )

    def distinct(self) -> tuple[Self, Tensor]:
        """The distinct rows, and the position of each of the B rows among them, (B,)."""
        flat = torch.cat([tensor.flatten(1) for tensor in self.tensors.values()], dim=1)
        different, where = flat.unique(dim=0, return_inverse=True)
        first = torch.full((len(different),), len(flat), device=flat.device)
        first.scatter_reduce_(0, where, torch.arange(len(flat), device=flat.device), "amin")
        return self[first], where

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """The rows of all parts, in order."""
        parts = list(parts)
        return cls({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


class Tokens(TensorBatch):
    """Prompts as token ids, by text encoder."""


class Conditioning(TensorBatch):
    """What `predict` needs to know about each prompt: hidden states, and whatever else its family conditions on."""
