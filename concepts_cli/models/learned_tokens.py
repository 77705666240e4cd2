"""Learned words in a frozen text encoder: the tokenizer knows them, the embedding table is never touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LearnedTokens(nn.Module):
    """Stands in for a text encoder's token table and looks a few extra ids up elsewhere.

    The table keeps its size, its dtype and its values; gradients reach the learned rows (K, D) and nothing else. A
    text encoder so equipped is otherwise the one that was loaded.
    """

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table
        self._learned: list[Tensor] = []  # (K, D), in a list, so that it is not a parameter of the text encoder
        self.register_buffer(
            "rows", torch.empty(0, dtype=torch.long), persistent=False
        )  # of a token id; -1: the table's

    @property
    def weight(self) -> Tensor:
        return self.table.weight

    def forward(self, input_ids: Tensor) -> Tensor:  # (P, T) -> (P, T, D)
        hidden = self.table(input_ids.clamp(max=self.table.num_embeddings - 1))
        if not self._learned:
            return hidden
        rows = self.rows[input_ids]
        learned = self._learned[0].to(hidden)[rows.clamp(min=0)]
        return torch.where((rows >= 0)[..., None], learned, hidden)

    def learn(self, ids: Sequence[int], embeddings: Tensor) -> None:
        """Let token `ids[k]` mean `embeddings[k]`, as it is now and as it is trained. Shapes: embeddings (K, D).

        Ids lie beyond the table, or in it where a table has more rows than the tokenizer has words.
        """
        rows = torch.full((max(self.table.num_embeddings, max(ids) + 1),), -1)
        rows[list(ids)] = torch.arange(len(ids))
        self.rows = rows.to(self.table.weight.device)
        self._learned = [embeddings]
