"""How images become noise, and what a model is asked to predict: one object for noise, velocity and flow models.

Shapes: B batch, C H W latents; times are (B,) or (), in the model's own unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from concepts_cli.errors import UcdError

PREDICTIONS = ("epsilon", "v_prediction", "flow")


class Noise(ABC):
    """The process x_t = signal(t) * x_0 + spread(t) * noise, and the model's prediction at each time.

    `prediction` is `epsilon` (the noise), `v_prediction` (the velocity signal * noise - spread * x_0 of Salimans and
    Ho, ICLR 2022) or `flow` (noise - x_0, of rectified flow; Liu et al., ICLR 2023). `max_steps` is the largest number
    of denoising steps, None where time is continuous.
    """

    def __init__(self, prediction: str, max_steps: int | None = None):
        if prediction not in PREDICTIONS:
            raise UcdError(f"the model predicts {prediction!r}", f"supported: {', '.join(PREDICTIONS)}")
        self.prediction, self.max_steps = prediction, max_steps

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """The time at share `u` of the process, from 0 (clean) to 1 (noise), in the shape of `u`."""

    @abstractmethod
    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread at these times, in the shape of `time`."""

    @abstractmethod
    def same_schedule(self, other: Noise) -> bool:
        """Whether the other process has the same levels at the same times."""

    def add(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """`clean` (B, C, H, W) plus `noise` (B, C, H, W), at the levels of `time`."""
        signal, spread = self._levels_for(clean, time)
        return signal * clean + spread * noise

    def example(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and what a perfect model predicts from them, (B, C, H, W) each."""
        signal, spread = self._levels_for(clean, time)
        return signal * clean + spread * noise, self._target(clean, noise, signal, spread)

    def split(self, prediction: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction implies, (B, C, H, W) each."""
        signal, spread = self._levels_for(noisy, time)
        if self.prediction == "v_prediction":
            return signal * noisy - spread * prediction, signal * prediction + spread * noisy
        if self.prediction == "flow":
            return noisy - spread * prediction, noisy + signal * prediction
        return (noisy - spread * prediction) / signal, prediction

    def undo_step(self, prediction: Tensor, noisy: Tensor, time: Tensor, lower: Tensor, below: Tensor) -> Tensor:
        """The latents from which a deterministic step led down to `lower` at time `below`: (B, C, H, W).

        `noisy` is the current guess of these latents, and `prediction` the model's prediction there.
        """
        _, noise = self.split(prediction, noisy, time)
        signal, spread = self._levels_for(lower, below)
        return self.add((lower - spread * noise) / signal, noise, time)

    def _target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
        if self.prediction == "v_prediction":
            return signal * noise - spread * clean
        return noise - clean if self.prediction == "flow" else noise

    def _levels_for(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The levels, shaped to multiply `latents`."""
        signal, spread = self.levels(time)
        shape = (*time.shape, *[1] * (latents.ndim - time.ndim)) if time.ndim else ()
        return signal.reshape(shape), spread.reshape(shape)


class DiscreteNoise(Noise):
    """A schedule of T steps (DDPM; Ho et al., NeurIPS 2020). Times are integers from 0 to T - 1.

    Time -1 is the end of denoising: no noise, or as little as at time 0 if the schedule says so.
    """

    def __init__(self, alphas: Tensor, final_alpha: Tensor, prediction: str):
        """`alphas` (T,) are the products of 1 - beta up to each step, `final_alpha` () the one before the first."""
        super().__init__(prediction, len(alphas))
        self.alphas = alphas
        every = torch.cat([alphas, final_alpha.to(alphas).reshape(1)])  # index -1 is the end
        self._signal, self._spread = every.sqrt(), (1 - every).sqrt()

    def time(self, u: Tensor) -> Tensor:
        return (u * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        time = time.long()  # some samplers give whole numbers as floats
        return self._signal[time], self._spread[time]

    def same_schedule(self, other: Noise) -> bool:
        return (
            isinstance(other, DiscreteNoise)
            and self.alphas.shape == other.alphas.shape
            and torch.allclose(self.alphas, other.alphas, atol=1e-6)
        )


class FlowNoise(Noise):
    """A straight line from image to noise (rectified flow). Times run from 0, clean, to `end`, noise."""

    def __init__(self, end: float = 1.0):
        super().__init__("flow")
        self.end = end

    def time(self, u: Tensor) -> Tensor:
        return u.float() * self.end

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        share = time / self.end
        return 1 - share, share

    def undo_step(self, prediction: Tensor, noisy: Tensor, time: Tensor, lower: Tensor, below: Tensor) -> Tensor:
        # Not by `split`: at `end` there is no signal, and the noise it gives is `noisy`, whatever the prediction.
        return lower + (time - below) / self.end * prediction

    def same_schedule(self, other: Noise) -> bool:
        return isinstance(other, FlowNoise) and self.end == other.end
