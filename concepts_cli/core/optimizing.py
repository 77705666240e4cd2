"""The optimizer of a training, and its learning rates step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from concepts_cli.core.concepts import Concepts
from concepts_cli.core.row_adamw import RowAdamW
from concepts_cli.recipe import TrainSettings

WORD_SHARE = 0.05  # without a learning rate: of the deviation of the model's own words
WEIGHT_RATES = {"softmax": 0.1, "none": 0.02}  # of raw weights, which have farther to go in a softmax


def build_optimizer(
    settings: TrainSettings, concepts: Concepts, typical: Mapping[str, Tensor], *, images_per_step: int, sees_rows: bool
) -> torch.optim.Optimizer:
    """AdamW for what is trained of the concepts; with `sees_rows`, it updates only rows that have a gradient.

    `typical` are the model's own words, (V, D) by text encoder.
    """
    scale, given = (images_per_step if settings.scale_learning_rate else 1), settings.learning_rate
    words = [(table, given or WORD_SHARE * deviation(typical[name])) for name, table in concepts.embeddings.items()]
    weights = (concepts.raw_weights, settings.weights_learning_rate or given or WEIGHT_RATES[concepts.constraint])
    groups = [
        {"params": [parameter], "lr": rate * scale} for parameter, rate in (*words, weights) if parameter.requires_grad
    ]
    options: dict[str, Any] = {
        "lr": weights[1] * scale,
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


def deviation(words: Tensor) -> float:
    """The standard deviation of words (V, D): the mean of their coordinates'."""
    return float(words.float().std(dim=0).mean())
