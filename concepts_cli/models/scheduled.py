"""What all families share that diffusers' schedulers denoise."""

from __future__ import annotations

from typing import Any

import torch

from concepts_cli.models.diffusers_model import DiffusersModel
from concepts_cli.models.samplers import SCHEDULERS, DiffusersSampler, diffusers_scheduler, scheduled_noise


class Scheduled(DiffusersModel):
    """A model whose noise is that of its pipeline's scheduler."""

    samplers = tuple(SCHEDULERS)

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.noise = scheduled_noise(self.scheduler_config, device)

    def sampler(self, name: str | None = None, *, size: tuple[int, int] | None = None) -> DiffusersSampler:
        return DiffusersSampler(self.scheduler(name))

    def scheduler(self, name: str | None = None) -> Any:
        """A new diffusers scheduler by its short name, with the model's own noise schedule."""
        return diffusers_scheduler(self.sampler_name(name), self.scheduler_config)
