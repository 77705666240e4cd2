"""Tiny models on a device, and trainings on them."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from concepts_cli.core.concepts import Concepts, concept_tokens
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import ComposedLoss
from concepts_cli.models import load_model
from concepts_cli.models.device import DTYPES
from concepts_cli.recipe import TrainSettings
from tests.held_latents import HeldLatents

IMAGES = 7


def build_training(
    folder: Path,
    device: str,
    *,
    concepts: int = 3,
    side: int = 32,
    precision: str = "no",
    checkpointed: bool = False,
    compiled: bool = False,
    per_image: int | None = None,
    update: str = "auto",
    **settings,
) -> Training:
    """A training of random latents, the same on every device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    model = load_model(str(folder), device=device, dtype=DTYPES[precision])
    if compiled:
        model.compile()
    start = {
        encoder: torch.randn(concepts, table.shape[1], generator=seeded(0, encoder))
        for encoder, table in model.tables.items()
    }
    learned = Concepts(start, 0.5 + torch.rand(IMAGES, concepts, generator=seeded(0, "weights")))
    latents = torch.randn(1, IMAGES, *model.latent_shape(side, side), generator=seeded(0, "latents"))
    options = {"max_steps": 20, "batch_size": 4, "gradient_accumulation": 2, "learning_rate": 0.001} | settings
    return Training(
        ComposedLoss(
            model,
            learned,
            concept_tokens(concepts),
            ("a photo of a {}", "{}"),
            checkpointed=checkpointed,
            per_image=per_image,
        ),
        HeldLatents(latents, torch.ones_like(latents)),
        TrainSettings(**options),
        flip_probability=0,
        update=update,
        accelerator=accelerator,
    )
