"""What is learned, and nothing else: K word embeddings, one per text encoder, and a weight per image and concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models.embeddings import from_file, to_file
from concepts_cli.models.interface import DiffusionModel


def concept_tokens(count: int) -> tuple[str, ...]:
    """`<t1>` to `<tK>`."""
    return tuple(f"<t{k}>" for k in range(1, count + 1))


class Concepts(nn.Module):
    """Embeddings by text encoder, (K, D) each, shared by all images, and raw weights, (N, K) or one row (1, K) for all
    images alike.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Tensor],
        raw_weights: Tensor,
        *,
        constraint: str = "none",
        train_weights: bool = True,
    ):
        super().__init__()
        self.embeddings = nn.ParameterDict({name: nn.Parameter(table.float()) for name, table in embeddings.items()})
        self.raw_weights = nn.Parameter(raw_weights.float(), requires_grad=train_weights)
        self.constraint = constraint

    @property
    def count(self) -> int:
        return self.raw_weights.shape[1]

    @property
    def joint_embeddings(self) -> Tensor:
        """Each concept's embeddings side by side, (K, sum of D)."""
        tables = list(self.embeddings.values())
        return torch.cat(tables, dim=1) if len(tables) > 1 else tables[0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is learned, by its name in a checkpoint."""
        return {**to_file(dict(self.embeddings.items())), "raw_weights": self.raw_weights}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors()` gave, of the same shapes."""
        for name, table in from_file(tensors).items():
            self.embeddings[name].copy_(table)
        self.raw_weights.copy_(tensors["raw_weights"])

    def constrain(self, raw_weights: Tensor) -> Tensor:
        """Raw weights (..., K) as they are, or (`softmax`) on the simplex of the paper's eq. 10."""
        return raw_weights.softmax(dim=-1) if self.constraint == "softmax" else raw_weights

    def weights(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The weights of those rows, (B, K)."""
        return self.constrain(self.raw_weights[rows])

    def strongest(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Which concept weighs most in those rows, (B,)."""
        return self.raw_weights.detach()[rows].argmax(dim=1)

    @torch.no_grad()
    def revive(self, generator: torch.Generator, noise: float = 0.3) -> int:
        """Give every concept that is the strongest of few images half of the images of the one that is of most.

        It starts as that one plus noise (in units of the embedding's own deviation), with the same weights; from there
        the loss tells the two apart, as splitting a cluster does in k-means. Returns how many concepts began anew.
        """
        owners = self.strongest()
        sizes = owners.bincount(minlength=self.count)
        revived = 0
        few = len(owners) / self.count / 4  # a quarter of an equal share
        for dead in (sizes < few).nonzero().flatten().tolist():
            largest = int(sizes.argmax())
            if sizes[largest] < 2:
                break
            for table in self.embeddings.values():
                start = table[largest]
                shift = torch.randn(start.shape, generator=generator).to(start.device) * start.std() * noise
                table[dead] = start + shift
            theirs = owners == largest
            if self.constraint == "none":
                self.raw_weights[theirs, largest] /= 2
            self.raw_weights[theirs, dead] = self.raw_weights[theirs, largest]
            sizes[largest] = sizes[dead] = sizes[largest] // 2
            revived += 1
        return revived


def initial_embeddings(
    model: DiffusionModel,
    count: int,
    *,
    words: Sequence[str] | None,
    spread: float,
    generator: torch.Generator,
    unit_norm: bool = False,
) -> dict[str, Tensor]:
    """Where the K embeddings start, (K, D) by text encoder: around the mean of its token table, or at given words.

    `spread` is the standard deviation of the random part in units of the table's own, dimension by dimension. `words`
    is one for all or one per concept, each a single token of the model; then the random part is added only where
    concepts share a word. `unit_norm` scales each to length 1 in the end. Raises UcdError for a word that the model
    splits.
    """
    rows = _rows_of(model, count, words) if words else {}
    starts = {}
    for encoder, weights in model.tables.items():
        table = weights.float().cpu()
        noise = torch.randn(count, table.shape[1], generator=generator) * table.std(dim=0) * spread
        if rows:
            shared = torch.tensor([rows[encoder].count(row) > 1 for row in rows[encoder]])
            start = table[rows[encoder]] + noise * shared[:, None]
        else:
            start = table.mean(dim=0) + noise
        starts[encoder] = F.normalize(start, dim=1) if unit_norm else start
    return starts


def _rows_of(model: DiffusionModel, count: int, words: Sequence[str]) -> dict[str, list[int]]:
    """The row of each concept's word in the table of each text encoder."""
    words = list(words) * count if len(words) == 1 else list(words)
    if len(words) != count:
        raise UcdError(f"concepts.initial: {len(words)} words for {count} concepts", "give one for all or one for each")
    rows: dict[str, list[int]] = {encoder: [] for encoder in model.tables}
    for word in words:
        for encoder, pieces in model.pieces(word).items():
            if len(pieces) != 1:
                raise UcdError(
                    f"concepts.initial: {word!r} is {len(pieces)} tokens of this model",
                    "choose words that are one token",
                )
            rows[encoder] += pieces
    return rows
