"""Stable Diffusion 1 and 2, and every model in their layout, the built-in one included."""

from __future__ import annotations

from typing import ClassVar

from concepts_cli.models import SOLE_ENCODER, TOKEN, TOOLS
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.unet_diffusion import UNetDiffusion


class StableDiffusion(UNetDiffusion):
    """One text encoder, whose last layer the network reads."""

    pipeline_class = "StableDiffusionPipeline"
    encoders: ClassVar = {SOLE_ENCODER: ""}
    # In one tensor, whose key is the word, or a name of the tool's; the word is then the file's name.
    tools: ClassVar = {
        tool: {SOLE_ENCODER: {"diffusers": TOKEN, "onetrainer": "emp_params"}.get(tool, "emb_params")} for tool in TOOLS
    }
    left_out: ClassVar = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }

    def read(self, tokens: Tokens) -> Conditioning:
        return Conditioning({"hidden_states": self.text(tokens.tensors[SOLE_ENCODER])})
