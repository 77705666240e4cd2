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
        self._learned: list[Tensor] = []  # (K, D), in a list so that it is no parameter of the text encoder
        self.register_buffer("rows", torch.empty(0, dtype=torch.long), persistent=False)  # row of token id V + j

    @property
    def weight(self) -> Tensor:
        return self.table.weight

    def forward(self, input_ids: Tensor) -> Tensor:  # (P, T) -> (P, T, D)
        vocabulary = self.table.num_embeddings
        hidden = self.table(input_ids.clamp(max=vocabulary - 1))
        if not self._learned:
            return hidden
        learned = self._learned[0].to(hidden)[self.rows[(input_ids - vocabulary).clamp(min=0)]]
        return torch.where((input_ids >= vocabulary)[..., None], learned, hidden)

    def learn(self, ids: Sequence[int], embeddings: Tensor) -> None:
        """Let token `ids[k]` mean `embeddings[k]`, as it is now and as it is trained. Shapes: embeddings (K, D).

        Ids lie beyond the table.
        """
        vocabulary = self.table.num_embeddings
        rows = torch.zeros(max(ids) - vocabulary + 1, dtype=torch.long)
        for row, token_id in enumerate(ids):
            rows[token_id - vocabulary] = row
        self.rows = rows.to(self.table.weight.device)
        self._learned = [embeddings]
