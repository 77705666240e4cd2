"""Stable Diffusion XL (Podell et al., 2023): two text encoders, a pooled text, and sizes as conditions.

A concept has an embedding in each text encoder; they are named `clip_l` and `clip_g`, as in other tools' files.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from concepts_cli.models import TOOLS
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.device import to_device
from concepts_cli.models.unet_diffusion import UNetDiffusion


class StableDiffusionXL(UNetDiffusion):
    """Two text encoders, of which the network reads the last layer but one, and the second's pooled text.

    The unconditional score follows the pipeline's own flag `force_zeros_for_empty_prompt`: where it is set, as in the
    published base model, the empty prompt becomes zeros; where it isn't, the empty prompt is encoded as any other.
    """

    pipeline_class = "StableDiffusionXLPipeline"
    encoders: ClassVar = {"clip_l": "", "clip_g": "_2"}
    tools: ClassVar = {tool: {"clip_l": "clip_l", "clip_g": "clip_g"} for tool in TOOLS}
    left_out: ClassVar = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}
    tokenizers = ("tokenizer", "tokenizer_2")
    keeps_vae_float32 = True  # the published image encoder overflows in half precision

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.empty_is_zeros = bool(pipeline.config.force_zeros_for_empty_prompt)
        self._empty = self.text.tokenize([""])
        # The published second encoder pools the token with the largest id, which would be a learned word's.
        for module in self.texts["clip_g"].encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = pipeline.tokenizer_2.eos_token_id

    def read(self, tokens: Tokens) -> Conditioning:
        outputs = [
            text.encoder(tokens.tensors[encoder], output_hidden_states=True) for encoder, text in self.texts.items()
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)  # (P, T, D1 + D2)
        pooled = outputs[-1].text_embeds
        if self.empty_is_zeros:
            empty = (tokens.tensors["clip_l"] == self._empty).all(dim=1).to(hidden.device)
            hidden = hidden.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        return Conditioning({"hidden_states": hidden, "pooled": pooled})

    def _added(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """The pooled text, and six numbers: the original size, the crop's corner and the target size, in pixels.

        Images are resized whole, so both sizes are the picture's own and nothing is cropped, which is also the
        pipeline's default.
        """
        height, width = (side * self.image_scale for side in latents.shape[-2:])
        sizes = to_device(torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype), latents.device)
        pooled = conditioning.tensors["pooled"].to(self.dtype)
        return {"text_embeds": pooled, "time_ids": sizes.expand(len(latents), -1)}
