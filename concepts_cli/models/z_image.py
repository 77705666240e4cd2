"""Z-Image (Tongyi-MAI, 2025): a flow transformer that reads its prompt through the language model Qwen3.

Shapes: P prompts, T tokens, D embedding width, B batch, C h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.flow_sampler import FlowEuler
from concepts_cli.models.latent_diffusion import LatentDiffusion
from concepts_cli.models.noise import FlowNoise
from concepts_cli.models.text import TextEncoder

PATCH = 2  # side of a patch in latents, which the published model has


class ChatEncoder(TextEncoder):
    """A language model that is asked each prompt as a user's message."""

    most_tokens = 512

    def tokenize_with_mask(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, and 1 where they are not padding, (P, T) each."""
        batch = self.tokenizer(
            [self.spelled(self._message(prompt)) for prompt in prompts],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenize_with_mask(prompts)[0]

    def is_truncated(self, prompt: str) -> bool:
        return super().is_truncated(self._message(prompt))

    def whole_words(self) -> dict[str, int]:
        """The tokens that are a whole word with a space before it, which the vocabulary writes as Ġ."""
        added = set(self.tokenizer.get_added_vocab())
        rows = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        words = ((token.removeprefix("Ġ"), token, row) for token, row in rows if token not in added)
        return {word: row for word, token, row in words if word != token and len(word) > 1 and word.isalpha()}

    def _message(self, prompt: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )


class ZImage(LatentDiffusion):
    """The undistilled base model. It doesn't expose its attention, so it has no heat maps.

    Guidance is uncond + s * (cond - uncond), as everywhere. The pipeline of diffusers has cond + s * (cond - uncond)
    here, so its scale is ours less 1.
    """

    pipeline_class = "ZImagePipeline"
    network_name = "transformer"
    encoders: ClassVar = {SOLE_ENCODER: ""}
    text_class = ChatEncoder
    tools: ClassVar = {"comfyui": {SOLE_ENCODER: "qwen3_4b"}}
    left_out: ClassVar = {}
    samplers = ("flow-euler",)
    noise: FlowNoise
    text: ChatEncoder

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a schedule that depends on the picture's size."""
        super().__init__(pipeline, name, device=device, dtype=dtype)
        if self.scheduler_config.get("use_dynamic_shifting"):
            raise UcdError(f"the schedule of {name} depends on the picture's size", "this is not supported")
        self.noise = FlowNoise(end=float(self.scheduler_config["num_train_timesteps"]))
        self.size_multiple = self.image_scale * PATCH
        self.resolution = self.vae.config.sample_size

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a folder or hub id; half precision is bfloat16, in which the model was published.

        Raises UcdError for the distilled model.
        """
        if "turbo" in PurePath(name).name.lower():
            hint = "use the base model: Tongyi-MAI/Z-Image"
            raise UcdError(
                f"{name} is distilled: it has no unconditional score, which concepts are composed with", hint
            )
        half = torch.bfloat16 if dtype == torch.float16 else dtype
        return super().load(source, name=name, revision=revision, device=device, dtype=half)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        ids, mask = self.text.tokenize_with_mask(prompts)
        return Tokens({SOLE_ENCODER: ids, "mask": mask})

    def read(self, tokens: Tokens) -> Conditioning:
        ids, mask = tokens.tensors[SOLE_ENCODER], tokens.tensors["mask"].bool()
        used = int(mask.any(dim=0).nonzero().max()) + 1  # prompts are short: what follows is padding in all of them
        needed: Any = mask[:, :used]
        if self.tokenizer.padding_side == "right":  # no token reads what follows it, and padding is left out below
            needed = {"full_attention": None}  # what transformers makes of no mask, without looking into tensors
        output = self.text.encoder(ids[:, :used], attention_mask=needed, output_hidden_states=True, use_cache=False)
        hidden = F.pad(output.hidden_states[-2], (0, 0, 0, ids.shape[1] - used))  # (P, T, D)
        return Conditioning({"hidden_states": hidden, "mask": mask})

    def sampler(self, name: str | None = None) -> FlowEuler:
        self.sampler_name(name)
        return FlowEuler(self.noise, shift=float(self.scheduler_config.get("shift", 1.0)))

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, mask = conditioning.tensors["hidden_states"].to(self.dtype), conditioning.tensors["mask"]
        captions = [states[kept] for states, kept in zip(hidden, mask, strict=True)]
        frames = list(latents.to(self.dtype)[:, :, None])  # (C, 1, h, w) each
        clean = (1 - time / self.noise.end).expand(len(latents))  # the network counts from noise to image
        towards_image = self.network(frames, clean, captions, return_dict=False)[0]
        return -torch.stack(towards_image)[:, :, 0].float()
