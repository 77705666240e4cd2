"""What every stage of pretraining shares: a budget, the moving average, exact resuming.

A stage is a generator of `Step`s: the caller logs, and decides when to stop. All randomness in step n comes from
(seed, n), so a checkpoint needs no random state, and a resumed training is bit-identical to an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

CPU = torch.device("cpu")

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or minutes of wall clock. Schedules stretch over it."""

    steps: int | None = None
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The share already used, from 0 to 1."""
        return min(1.0, step / self.steps if self.steps else seconds / (60 * (self.minutes or math.inf)))


@dataclass(frozen=True)
class Step:
    """What one optimizer step reports."""

    number: int  # steps done, this one included
    samples: int  # pictures seen
    seconds: float  # of training, over all resumptions
    losses: dict[str, Tensor]  # each read only when it is logged: reading waits for a GPU


def warmup_cosine(step: int, progress: float) -> float:
    """A factor of the learning rate: up over 100 steps, then down along a cosine to 2% at the end of the budget."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def warmup_flat_cooldown(step: int, progress: float) -> float:
    """A factor of the learning rate: up over 200 steps, flat, and down over the last 30% of the budget.

    A training resumed with a longer budget continues at the flat rate.
    """
    return min(1.0, (step + 1) / 200) * min(1.0, max(0.05, (1 - progress) / 0.3))


def step_rng(seed: int, step: int, device: torch.device = CPU) -> tuple[np.random.Generator, torch.Generator]:
    """The randomness of one step, for numpy and for torch on `device`."""
    rng = np.random.default_rng((seed, step))
    return rng, torch.Generator(device).manual_seed(int(rng.integers(2**63)))


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where it is fast: on a GPU. On a CPU nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)


@dataclass
class Training:
    """A module with its optimizers, its moving average and a checkpoint file."""

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    checkpoint: Path
    batch_size: int
    schedule: Callable[[int, float], float] = warmup_cosine
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    save_minutes: float = 5.0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    first: int = 0  # the step at which the optimizers were new: the warm-up counts from here
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = self.step
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.average = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        if self.checkpoint.exists():
            self._load()

    def run(self, budget: Budget, losses: Callable[[int], dict[str, Tensor]]) -> Iterator[Step]:
        """Train until the budget is spent. `losses(step)` gives named scalars, of which "loss" is minimized."""
        saved = start = time.monotonic() - self.seconds
        try:
            while (progress := budget.progress(self.step, self.seconds)) < 1:
                values = losses(self.step)
                self._update(values["loss"], self.schedule(self.step - self.first, progress))
                self.seconds = time.monotonic() - start
                yield Step(self.step, self.samples, self.seconds, {name: v.detach() for name, v in values.items()})
                if time.monotonic() - saved > 60 * self.save_minutes:
                    self.save()
                    saved = time.monotonic()
        finally:  # also when the caller stops early, or Ctrl-C does
            self.save()

    def _update(self, loss: Tensor, factor: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.samples += self.batch_size
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        done = self.step - self.first
        decay = min(self.ema_decay, (1 + done) / (10 + done))  # short at first, while everything changes
        state = self.module.state_dict()
        names = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in names], [state[name] for name in names], 1 - decay)
        for name in state.keys() - set(names):
            self.average[name].copy_(state[name])

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "module": self.module.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "first": self.first,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def _load(self) -> None:
        device = next(self.module.parameters()).device
        state = torch.load(self.checkpoint, weights_only=True, map_location=device)
        self.module.load_state_dict(state["module"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]
        self.first = state["first"]


def averaged(module: M, checkpoint: Path) -> M:
    """`module` with the moving average of a checkpoint's weights, ready for use: frozen, in evaluation mode."""
    module.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["average"])
    return module.eval().requires_grad_(False)
