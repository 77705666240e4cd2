"""What Z-Image and FLUX.2 share: a flow transformer that reads its prompt through the language model Qwen3.

Shapes: P prompts, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch

from concepts_cli.errors import UcdError
from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.chat_encoder import ChatEncoder
from concepts_cli.models.conditioning import Tokens
from concepts_cli.models.flow_sampler import FlowEuler
from concepts_cli.models.joint_attention import JointAttention
from concepts_cli.models.latent_diffusion import LatentDiffusion
from concepts_cli.models.noise import FlowNoise

PATCH = 2  # side of a patch in the image encoder's latents, which the published models have


class FlowTransformer(LatentDiffusion):
    """A family adds `read`, `predict`, how far its schedule is shifted, and its `attention`.

    Guidance is uncond + s * (cond - uncond), as everywhere.
    """

    network_name = "transformer"
    encoders: ClassVar = {SOLE_ENCODER: ""}
    text_class = ChatEncoder
    tools: ClassVar = {"comfyui": {SOLE_ENCODER: "qwen3_4b"}}
    left_out: ClassVar = {}
    samplers = ("flow-euler",)
    noise: FlowNoise
    text: ChatEncoder
    attention: JointAttention

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.noise = FlowNoise(end=float(self.scheduler_config["num_train_timesteps"]))
        self.size_multiple = self.image_scale * PATCH
        self.resolution = self.vae.config.sample_size

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a folder or hub id; half precision is bfloat16, in which the models were published."""
        half = torch.bfloat16 if dtype == torch.float16 else dtype
        return super().load(source, name=name, revision=revision, device=device, dtype=half)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        ids, mask = self.text.tokenize_with_mask(prompts)
        return Tokens({SOLE_ENCODER: ids, "mask": mask})

    @abstractmethod
    def shift(self, num_steps: int, size: tuple[int, int]) -> float:
        """How far `num_steps` steps are shifted towards the noise, for latents of this height and width."""

    def sampler(self, name: str | None = None, *, size: tuple[int, int] | None = None) -> FlowEuler:
        self.sampler_name(name)
        _, *native = self.latent_shape()
        height, width = size or native
        return FlowEuler(self.noise, lambda num_steps: self.shift(num_steps, (height, width)))


def distilled(name: str, base: str) -> UcdError:
    """The error for a distilled model; `base` is the name of the one to use."""
    return UcdError(
        f"{name} is distilled: it has no unconditional score, which concepts are composed with",
        f"use the base model: {base}",
    )
