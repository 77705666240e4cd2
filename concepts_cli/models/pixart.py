"""PixArt-Sigma (Chen et al., ECCV 2024) and -Alpha: transformers that attend to what T5 makes of the prompt.

Shapes: P prompts, T tokens, D embedding width, B batch, C h w latents.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.device import to_device
from concepts_cli.models.latent_diffusion import LatentDiffusion
from concepts_cli.models.t5 import T5Diffusion, T5Encoder
from concepts_cli.models.text import TextEncoder, used_tokens
from concepts_cli.models.unet_attention import UNetAttention


class LongT5Encoder(T5Encoder):
    most_tokens = 300


class PixArtSigma(T5Diffusion, LatentDiffusion):
    """Its network predicts the noise and, where it has twice the channels, a variance, which is dropped."""

    pipeline_class = "PixArtSigmaPipeline"
    network_name = "transformer"
    text_class: ClassVar[type[TextEncoder]] = LongT5Encoder
    tools: ClassVar = {"comfyui": {SOLE_ENCODER: "t5xxl"}}
    left_out: ClassVar = {}
    keeps_vae_float32 = True  # the published image encoder is that of Stable Diffusion XL

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.attention = UNetAttention(self.network)
        self.size_multiple = self.image_scale * self.network.config.patch_size
        self.resolution = self.network.config.sample_size * self.image_scale

    def read(self, tokens: Tokens) -> Conditioning:
        ids, mask = tokens.tensors[SOLE_ENCODER], tokens.tensors["mask"]
        used = used_tokens(mask)
        states = self.text.states(ids[:, :used], mask[:, :used])
        return Conditioning({"hidden_states": F.pad(states, (0, 0, 0, ids.shape[1] - used)), "mask": mask})

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        both = self.network(
            latents.to(self.dtype),
            encoder_hidden_states=conditioning.tensors["hidden_states"].to(self.dtype),
            timestep=time.expand(len(latents)),
            added_cond_kwargs=self._sizes(latents),
            encoder_attention_mask=conditioning.tensors["mask"].to(latents.device),
            return_dict=False,
        )[0]
        return both[:, : latents.shape[1]].float()

    def _sizes(self, latents: Tensor) -> dict[str, Tensor | None]:
        """The picture's size in pixels, (B, 2), and its height by its width, (B, 1), if the network asks for them."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.image_scale for side in latents.shape[-2:])
        conditions = {"resolution": [height, width], "aspect_ratio": [height / width]}
        tensors = {name: torch.tensor([value], dtype=self.dtype) for name, value in conditions.items()}
        return {name: to_device(each, latents.device).expand(len(latents), -1) for name, each in tensors.items()}


class ShortT5Encoder(T5Encoder):
    most_tokens = 120


class PixArtAlpha(PixArtSigma):
    """PixArt-Alpha (Chen et al., ICLR 2024), which reads fewer tokens; its largest network is told of sizes."""

    pipeline_class = "PixArtAlphaPipeline"
    text_class = ShortT5Encoder
    keeps_vae_float32 = False
