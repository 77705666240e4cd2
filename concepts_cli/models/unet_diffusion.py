"""Latent diffusion with a UNet2DConditionModel: what Stable Diffusion 1, 2 and XL share.

Shapes: B batch, C h w latents.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.latent_diffusion import LatentDiffusion
from concepts_cli.models.scheduled import Scheduled
from concepts_cli.models.unet_attention import UNetAttention


class UNetDiffusion(Scheduled, LatentDiffusion):
    """A family adds `read`, and what else its network is told about each row."""

    network_name = "unet"

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.unet = self.network
        self.attention = UNetAttention(self.unet)
        self.resolution = self.unet.config.sample_size * self.image_scale

    def diffusers_pipeline(self, scheduler: str | None = None) -> Any:
        """diffusers' own pipeline around these networks, learned words included, with one of `samplers`."""
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = self.scheduler(scheduler)
        return pipeline

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden_states"].to(self.dtype)
        added = self._added(latents, conditioning)
        return self.unet(latents.to(self.dtype), time, hidden, added_cond_kwargs=added, return_dict=False)[0].float()

    def _added(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        """What else the network is told about each of the B rows."""
        return None
