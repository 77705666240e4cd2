"""The optimizer of a training, and its learning rates step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from concepts_cli.core.concepts import Concepts
from concepts_cli.core.row_adamw import RowAdamW
from concepts_cli.recipe import TrainSettings


def build_optimizer(
    settings: TrainSettings, concepts: Concepts, *, images_per_step: int, sees_rows: bool
) -> torch.optim.Optimizer:
    """AdamW for what is trained of the concepts; with `sees_rows`, it updates only rows that have a gradient."""
    scale = images_per_step if settings.scale_learning_rate else 1
    rates = (settings.learning_rate, settings.weights_learning_rate or settings.learning_rate)
    rated = [(table, rates[0]) for table in concepts.embeddings.values()]
    groups = [
        {"params": [parameter], "lr": rate * scale}
        for parameter, rate in (*rated, (concepts.raw_weights, rates[1]))
        if parameter.requires_grad
    ]
    options: dict[str, Any] = {
        "lr": rates[0] * scale,
        "betas": settings.adam_betas,
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if sees_rows:
        return RowAdamW(groups, **options)
    return torch.optim.AdamW(groups, **options, fused=concepts.raw_weights.device.type == "cuda")


def learning_rates(
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
