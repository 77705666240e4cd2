"""The random choices for each image of a training step. Draw number d of a run depends only on the seed and d.

So a resumed run needs no random state, and a step's images are the same however they are split over batches,
accumulation and processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
        sentences: int,
        process: Noise,
        timesteps: str = "uniform",
        flip_probability: float = 0.5,
        repeats: int = 1,
        shared_sentence: bool = False,
    ):
        self.latents, self.seed, self.concepts, self.sentences = latents, seed, concepts, sentences
        self.process, self.density = process, timesteps
        self.flip_probability, self.repeats, self.shared_sentence = flip_probability, repeats, shared_sentence
        # Two are kept, because a batch may span the end of an epoch.
        self._order: Callable[[int], Tensor] = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, draws: Sequence[int]) -> Batch:
        """These draws as a batch on the CPU."""
        return Batch(*(torch.stack(tensors) for tensors in zip(*map(self._draw, draws), strict=True)))

    def _draw(self, draw: int) -> tuple[Tensor, ...]:
        row = self.row(draw)
        generator = seeded(self.seed, "draw", draw)
        flip, when = torch.rand(2, generator=generator).tolist()
        mean, std = self.latents.moments(row, mirrored=flip < self.flip_probability)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        sentences = torch.randint(self.sentences, (self.concepts,), generator=generator)
        if self.shared_sentence:
            sentences = sentences[:1].expand(self.concepts)
        choice = torch.randint(self.concepts, (), generator=generator)
        return torch.tensor(row), latents, noise, self._timestep(when), sentences, choice

    def row(self, draw: int) -> int:
        """The image of a draw: each epoch shows every image `repeats` times, in a new order."""
        epoch, position = divmod(draw, len(self.latents) * self.repeats)
        return int(self._order(epoch)[position])

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
