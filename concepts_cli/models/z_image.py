"""Z-Image (Tongyi-MAI, 2025): a flow transformer in which the image and its prompt are one sequence.

Shapes: P prompts, T tokens, D embedding width, B batch, C h w latents.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.flow_transformer import PATCH, FlowTransformer, distilled
from concepts_cli.models.joint_attention import Call, JointAttention, JointLayer
from concepts_cli.models.text import used_tokens

MULTIPLE = 32  # that the image's and the prompt's tokens are padded to


class ZImage(FlowTransformer):
    """The undistilled base model.

    The pipeline of diffusers has cond + s * (cond - uncond) for guidance, so its scale is ours less 1.
    """

    pipeline_class = "ZImagePipeline"

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a schedule that depends on the picture's size."""
        super().__init__(pipeline, name, device=device, dtype=dtype)
        if self.scheduler_config.get("use_dynamic_shifting"):
            raise UcdError(f"the schedule of {name} depends on the picture's size", "this is not supported")
        attention = {f"layers.{n}": block.attention for n, block in enumerate(self.network.layers)}
        self.attention = JointAttention(
            {
                name: JointLayer(layer.to_out[0], layer.to_out[0], layer.heads, layer.inner_dim)
                for name, layer in attention.items()
            },
            reads_padding=False,
        )

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Raises UcdError for the distilled model."""
        if "turbo" in PurePath(name).name.lower():
            raise distilled(name, "Tongyi-MAI/Z-Image")
        return super().load(source, name=name, revision=revision, device=device, dtype=dtype)

    def read(self, tokens: Tokens) -> Conditioning:
        ids, mask = tokens.tensors[SOLE_ENCODER], tokens.tensors["mask"].bool()
        used = used_tokens(mask)
        needed: Any = mask[:, :used]
        if self.tokenizer.padding_side == "right":  # no token reads what follows it, and padding is left out below
            needed = {"full_attention": None}  # what transformers makes of no mask, without looking into tensors
        output = self.text.encoder(ids[:, :used], attention_mask=needed, output_hidden_states=True, use_cache=False)
        hidden = F.pad(output.hidden_states[-2], (0, 0, 0, ids.shape[1] - used))  # (P, T, D)
        return Conditioning({"hidden_states": hidden, "mask": mask})

    def shift(self, num_steps: int, size: tuple[int, int]) -> float:
        return float(self.scheduler_config.get("shift", 1.0))

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, mask = conditioning.tensors["hidden_states"].to(self.dtype), conditioning.tensors["mask"]
        captions = [states[kept] for states, kept in zip(hidden, mask, strict=True)]
        frames = list(latents.to(self.dtype)[:, :, None])  # (C, 1, h, w) each
        clean = (1 - time / self.noise.end).expand(len(latents))  # the network counts from noise to image
        height, width = latents.shape[-2:]
        places = height // PATCH, width // PATCH
        text_from = math.ceil(math.prod(places) / MULTIPLE) * MULTIPLE
        self.attention.begin(Call(time, (height, width), places, mask, image_from=0, text_from=text_from))
        towards_image = self.network(frames, clean, captions, return_dict=False)[0]
        return -torch.stack(towards_image)[:, :, 0].float()
