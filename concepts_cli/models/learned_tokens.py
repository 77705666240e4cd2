"""Learned words in a frozen text encoder: the tokenizer knows them, and the embedding table never changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LearnedTokens(nn.Module):
    """Replaces a text encoder's token table, and looks a few extra ids up elsewhere.

    The table keeps its size, its dtype and its values; gradients reach only the learned rows.
    """

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table
        device = table.weight.device
        self.device = torch.device("cpu") if device.type == "meta" else device  # ids have to have content
        self._learned: list[Tensor] = []  # in a list, so that it is not a parameter of the text encoder
        self._rows = torch.empty(0, dtype=torch.long)  # learned row of each token id; -1: none

    @property
    def weight(self) -> Tensor:
        return self.table.weight

    def forward(self, input_ids: Tensor) -> Tensor:  # (P, T) -> (P, T, D)
        hidden = self.table(input_ids.clamp(max=self.table.num_embeddings - 1))
        if not self._learned:
            return hidden
        rows = self.rows(input_ids)
        learned = self._learned[0].to(hidden).flatten(0, -2)[rows.clamp(min=0)]
        return torch.where((rows >= 0)[..., None].to(hidden.device), learned, hidden)

    def rows(self, input_ids: Tensor) -> Tensor:
        """The learned row that each token stands for, or -1."""
        return self._rows[input_ids] if self._learned else torch.full_like(input_ids, -1)

    def learn(self, ids: Sequence[int], embeddings: Tensor) -> None:
        """Make token `ids[i]` stand for row i of `embeddings` (..., D), now and as it is trained.

        Ids lie beyond the table, or within it if it has more rows than the tokenizer has words.
        """
        rows = torch.full((max(self.table.num_embeddings, max(ids) + 1),), -1)
        rows[list(ids)] = torch.arange(len(ids))
        self._rows = rows.to(self.device)
        self._learned = [embeddings]
