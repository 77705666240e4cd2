"""Euler steps along a rectified flow (Liu et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from concepts_cli.models.noise import FlowNoise


class FlowEuler:
    """Straight steps from noise to image, behind the interface's `Sampler`.

    `shift` of a number of steps moves them towards the noise: a share s of noise becomes
    shift * s / (1 + (shift - 1) * s), as in diffusers' FlowMatchEulerDiscreteScheduler.
    """

    takes_eta, follows_process = False, True

    def __init__(self, noise: FlowNoise, shift: Callable[[int], float]):
        self.noise, self.shift = noise, shift
        self._ladder = torch.zeros(1)  # the steps' times from noise to clean, (S + 1,)

    def times(self, num_steps: int, device: torch.device) -> Tensor:
        share = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        shift = self.shift(num_steps)
        share = shift * share / (1 + (shift - 1) * share)
        self._ladder = (share * self.noise.end).float().to(device)
        return self._ladder[:-1]

    def ascent(self, num_steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        self.times(num_steps, device)
        return pairwise(self._ladder.flip(0))

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def model_input(self, latents: Tensor, time: Tensor) -> Tensor:
        return latents

    def step(
        self,
        prediction: Tensor,
        time: Tensor,
        latents: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
        eta: float = 0,
    ) -> Tensor:
        after = torch.where(self._ladder[:-1] == time, self._ladder[1:], 0).sum()  # the time below, without a wait
        return latents + (after - time) / self.noise.end * prediction
