"""What all families share whose images an AutoencoderKL encodes.

Shapes: B batch, C h w latents, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from concepts_cli.models.diffusers_model import DiffusersModel
from concepts_cli.models.text import freeze


class LatentDiffusion(DiffusersModel):
    """A frozen latent diffusion model; a family adds `resolution` and what `DiffusersModel` leaves to it."""

    keeps_vae_float32 = False  # whether the image encoder stays in float32 if its `force_upcast` says that it overflows

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a pipeline without one of its text encoders."""
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.vae = pipeline.vae
        freeze([self.vae], device)
        if self.keeps_vae_float32 and dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.float()
        self.image_scale = self.size_multiple = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def parts(self) -> Mapping[str, list[nn.Module]]:
        return {**super().parts(), "images": [self.vae]}

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        height, width = ((side or self.resolution) // self.image_scale for side in (height, width))
        return (self.network.config.in_channels, height, width)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0
        latents = (latents / scale + shift).to(self.vae.dtype)
        return (self.vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    def forget_images(self) -> None:
        self.vae.to("meta")

    @property
    def fingerprint(self) -> str:
        settings = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for key, tensor in sorted(self.vae.encoder.state_dict().items()):
            digest.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
