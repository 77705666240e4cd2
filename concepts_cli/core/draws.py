"""What each image of a training step is drawn with. Draw number d of a run depends on the seed and d alone.

So a resumed run needs no state of any random generator, and however the images of a step are dealt out to batches,
accumulation and processes, they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import Batch


class Draws:
    """Images, mirrorings, noise, timesteps and sentences for a training over N images and K concepts."""

    def __init__(
        self,
        latents: Latents,
        *,
        seed: int,
        concepts: int,
        sentences: int,
        num_train_timesteps: int,
        timesteps: str = "uniform",
        flip_probability: float = 0.5,
        repeats: int = 1,
        shared_sentence: bool = False,
    ):
        self.latents, self.seed, self.concepts, self.sentences = latents, seed, concepts, sentences
        self.num_train_timesteps, self.leaning = num_train_timesteps, timesteps
        self.flip_probability, self.repeats, self.shared_sentence = flip_probability, repeats, shared_sentence
        # Two are kept: of this epoch, and of the one that it runs on into.
        self._order: Callable[[int], Tensor] = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, draws: Sequence[int]) -> Batch:
        """These draws as a batch on the CPU."""
        return Batch(*(torch.stack(parts) for parts in zip(*map(self._draw, draws), strict=True)))

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
        return torch.tensor(row), latents, noise, torch.tensor(self._timestep(when)), sentences, choice

    def row(self, draw: int) -> int:
        """The image of a draw: an epoch shows each `repeats` times, in a new order."""
        epoch, position = divmod(draw, len(self.latents) * self.repeats)
        return int(self._order(epoch)[position])

    def _shuffled(self, epoch: int) -> Tensor:
        count = len(self.latents)
        return torch.randperm(count * self.repeats, generator=seeded(self.seed, "epoch", epoch)) % count

    def _timestep(self, uniform: float) -> int:
        """A number from [0, 1) as a timestep: all alike, or with a density that grows linearly to one end."""
        leaning = {"uniform": uniform, "high-noise": uniform**0.5, "low-noise": 1 - (1 - uniform) ** 0.5}
        return min(int(leaning[self.leaning] * self.num_train_timesteps), self.num_train_timesteps - 1)


def seeded(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one purpose: the same for the same three, unrelated otherwise."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
