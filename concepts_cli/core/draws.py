"""The random choices for each image of a training step. Draw number d of a run depends only on the seed and d.

So a resumed run needs no random state, and a step's images are the same however they are split over batches,
accumulation and processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import Batch
from concepts_cli.models.noise import Noise


class Draws:
    """Draws images, flips, noise, timesteps and sentences for training on N images and K concepts."""

    def __init__(
        self,
        latents: Latents,
        *,
        seed: int,
        concepts: int,
        sentences: int | Sequence[range],
        process: Noise,
        timesteps: str = "uniform",
        flip_probability: float = 0.5,
        repeats: int = 1,
        shared_sentence: bool = False,
        epoch_multiple: int = 1,
    ):
        """`sentences` is how many templates there are, or which of them each image may have.

        An epoch is filled up with its first images to a multiple of `epoch_multiple` draws.
        """
        self.latents, self.seed, self.concepts = latents, seed, concepts
        self.sentences = [range(sentences)] * len(latents) if isinstance(sentences, int) else sentences
        self.process, self.density = process, timesteps
        self.flip_probability, self.repeats, self.shared_sentence = flip_probability, repeats, shared_sentence
        self.epoch_length = math.ceil(len(latents) * repeats / epoch_multiple) * epoch_multiple
        self._mixed = len({latents.shape(row) for row in range(len(latents))}) > 1
        # Two are kept, because a batch may span the end of an epoch.
        self._order: Callable[[int], Tensor] = lru_cache(maxsize=2)(self._shuffled)

    def dealt(self, batches: Sequence[range]) -> list[tuple[Sequence[int], int]]:
        """The draws of a step, batch by batch, and how many draws the batch has that each was meant for.

        Where images differ in size, they are dealt anew, into batches of one size.
        """
        if not self._mixed:
            return [(draws, len(draws)) for draws in batches]
        alike: dict[tuple[int, ...], list[int]] = {}
        for draws in batches:
            for draw in draws:
                alike.setdefault((len(draws), *self.latents.shape(self.row(draw))), []).append(draw)
        return [(same[at : at + key[0]], key[0]) for key, same in alike.items() for at in range(0, len(same), key[0])]

    def batch(self, draws: Sequence[int]) -> Batch:
        """These draws, of images of one size, as a batch on the CPU."""
        return Batch(*(torch.stack(tensors) for tensors in zip(*map(self._draw, draws), strict=True)))

    def _draw(self, draw: int) -> tuple[Tensor, ...]:
        row = self.row(draw)
        generator = seeded(self.seed, "draw", draw)
        flip, when = torch.rand(2, generator=generator).tolist()
        mean, std = self.latents.moments(row, mirrored=flip < self.flip_probability)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        among = self.sentences[row]
        sentences = torch.randint(among.start, among.stop, (self.concepts,), generator=generator)
        if self.shared_sentence:
            sentences = sentences[:1].expand(self.concepts)
        choice = torch.rand((), generator=generator)
        masks = (self.latents.mask(row, mirrored=flip < self.flip_probability),) if self.latents.masked else ()
        return torch.tensor(row), latents, noise, self._timestep(when), sentences, choice, *masks

    def row(self, draw: int) -> int:
        """The image of a draw: each epoch shows every image `repeats` times, in a new order."""
        epoch, position = divmod(draw, self.epoch_length)
        order = self._order(epoch)
        return int(order[position % len(order)])

    def _shuffled(self, epoch: int) -> Tensor:
        count = len(self.latents)
        return torch.randperm(count * self.repeats, generator=seeded(self.seed, "epoch", epoch)) % count

    def _timestep(self, uniform: float) -> Tensor:
        """Turn a uniform number in [0, 1) into a time of the process, (): uniform, or denser towards one end."""
        shares = {"uniform": uniform, "high-noise": uniform**0.5, "low-noise": 1 - (1 - uniform) ** 0.5}
        return self.process.time(torch.tensor(shares[self.density], dtype=torch.float64))


def seeded(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator that depends only on the seed, the purpose and the index."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def step_batches(
    step: int, batch_size: int, batches: int, *, process: int = 0, processes: int = 1, epoch_length: int | None = None
) -> Iterator[range]:
    """One process's draws of a step, counted from 0: up to `batches` batches, dealt to the processes in turn.

    With an `epoch_length`, a step ends where the epoch ends, with fewer batches and perhaps a smaller last one, as
    accelerate ends gradient accumulation: 25 images in steps of 8 batches of 2 give steps of 16, 9, 16, 9, ... images.
    """
    dealt = batch_size * processes  # images of all processes in a forward pass
    start, stop = step * batches * dealt, (step + 1) * batches * dealt
    if epoch_length:
        epoch, part = divmod(step, math.ceil(epoch_length / (batches * dealt)))
        start = epoch * epoch_length + part * batches * dealt
        stop = min(start + batches * dealt, (epoch + 1) * epoch_length)
    for first in range(start + process * batch_size, stop, dealt):
        yield range(first, min(first + batch_size, stop))
