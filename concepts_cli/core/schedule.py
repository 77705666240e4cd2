"""Learning rates: diffusers' schedules, as functions of the step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from concepts_cli.recipe import TrainSettings


def schedule(
    settings: TrainSettings, optimizer: torch.optim.Optimizer, total_steps: int
) -> Callable[[int], list[float]]:
    """step -> the learning rate of every parameter group, by diffusers' schedules."""
    from diffusers.optimization import get_scheduler

    scheduler = get_scheduler(
        settings.schedule,
        optimizer,
        step_rules=settings.schedule_rules,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=total_steps,
        num_cycles=settings.schedule_restarts,
        power=settings.schedule_power,
    )
    return lambda step: [
        base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
