"""What is learned, and nothing else: K word embeddings per text encoder, and one weight per image and concept.

A concept's embedding is a vector (D), or V of them: tables are (K, D) or, with `concepts.vectors` above 1, (K, V, D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models.embeddings import from_file, to_file
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.text import check_pieces


def concept_tokens(count: int, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """`<t1>` to `<tK>`, or each of `names` in angle brackets."""
    return tuple(f"<{name.strip('<>')}>" for name in names or (f"t{k}" for k in range(1, count + 1)))


class Concepts(nn.Module):
    """Embeddings by text encoder, shared by all images; and raw weights, (N, K), or (1, K) if all images share one
    row.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Tensor],
        raw_weights: Tensor,
        *,
        where: str = "input",
        constraint: str = "none",
        train_weights: bool = True,
    ):
        """`where` is the embeddings' place, of the model's `places`."""
        super().__init__()
        self.embeddings = nn.ParameterDict({name: nn.Parameter(table.float()) for name, table in embeddings.items()})
        self.raw_weights = nn.Parameter(raw_weights.float(), requires_grad=train_weights)
        self.where, self.constraint = where, constraint

    @property
    def count(self) -> int:
        return self.raw_weights.shape[1]

    @property
    def joint_embeddings(self) -> Tensor:
        """Each concept's embeddings side by side, (K, sum of V * D)."""
        tables = [table.flatten(1) for table in self.embeddings.values()]
        return torch.cat(tables, dim=1) if len(tables) > 1 else tables[0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is learned, by its name in a checkpoint."""
        return {**to_file(dict(self.embeddings.items())), "raw_weights": self.raw_weights}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy in the values of an earlier `tensors()`, of the same shapes."""
        for name, table in from_file(tensors).items():
            self.embeddings[name].copy_(table)
        self.raw_weights.copy_(tensors["raw_weights"])

    def constrain(self, raw_weights: Tensor) -> Tensor:
        """Apply the constraint to raw weights (..., K): `softmax` puts them on the simplex of the paper's eq. 10."""
        return raw_weights.softmax(dim=-1) if self.constraint == "softmax" else raw_weights

    def weights(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The constrained weights of these rows, (B, K)."""
        return self.constrain(self.raw_weights[rows])

    def strongest(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The concept with the largest weight in each of these rows, (B,)."""
        return self.raw_weights.detach()[rows].argmax(dim=1)

    @torch.no_grad()
    def revive(self, generator: torch.Generator, noise: float = 0.3) -> int:
        """Restart each concept that is strongest in few images by splitting the one that is strongest in most.

        It starts from that concept's embedding plus noise (relative to the embedding's own deviation), with the same
        weights; the loss then separates the two, like splitting a cluster in k-means. Returns the number of restarted
        concepts.
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
            split_images = owners == largest
            if self.constraint == "none":
                self.raw_weights[split_images, largest] /= 2
            self.raw_weights[split_images, dead] = self.raw_weights[split_images, largest]
            sizes[largest] = sizes[dead] = sizes[largest] // 2
            revived += 1
        return revived


def initial_embeddings(
    model: DiffusionModel,
    count: int,
    *,
    vectors: int = 1,
    where: str = "input",
    words: Sequence[str] | None,
    spread: float,
    generator: torch.Generator,
    unit_norm: bool = False,
    start: str = "table",
) -> dict[str, Tensor]:
    """The initial embeddings by text encoder: random ones, or at given words.

    Random ones are normal, with `start="table"` around the mean of the encoder's token table (with `where="output"` of
    its states of words) and with its deviation in each dimension, with `"normal"` around 0 with deviation 1; `spread`
    multiplies the deviation. `words` has one word for all concepts or one per concept, each of at most as many tokens
    as a concept has vectors; the random part of `"table"` is then added only where concepts share a word. `unit_norm`
    finally scales each vector to length 1. Raises UcdError for a word of more tokens.
    """
    words = _word_each(words, count, vectors, model) if words else ()
    starts = {}
    for encoder, weights in model.typical_vectors(where).items():
        table = weights.float().cpu()
        normal = torch.randn(count, *several(vectors), table.shape[1], generator=generator) * spread
        noise = normal * table.std(dim=0)
        if words:
            pieces = [model.pieces(word)[encoder] for word in words]
            noise[torch.tensor([pieces.count(own) == 1 for own in pieces])] = 0
            found = [model.word_vectors(word, where)[encoder].float().cpu() for word in words]
            repeated = [own[torch.arange(vectors) % len(own)] for own in found]  # (V, D) each
            chosen = torch.stack(repeated).reshape(noise.shape) + noise
        else:
            chosen = normal if start == "normal" else table.mean(dim=0) + noise
        starts[encoder] = F.normalize(chosen, dim=-1) if unit_norm else chosen
    return starts


def several(vectors: int) -> tuple[int, ...]:
    """The dimension that a table of embeddings has if a concept has several vectors."""
    return (vectors,) if vectors > 1 else ()


def _word_each(words: Sequence[str], count: int, vectors: int, model: DiffusionModel) -> list[str]:
    """The word that each of K concepts starts from. Raises UcdError for one of more tokens than a concept's vectors."""
    words = list(words) * count if len(words) == 1 else list(words)
    if len(words) != count:
        raise UcdError(
            f"concepts.initial: {len(words)} words for {count} concepts", "give one word for all, or one per concept"
        )
    for word in words:
        for pieces in model.pieces(word).values():
            check_pieces(word, pieces, vectors)
    return words
