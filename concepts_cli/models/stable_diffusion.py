"""Stable Diffusion 1 and 2, and every model in their layout, the built-in one included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.samplers import SCHEDULERS, DiffusersSampler, diffusers_scheduler, scheduled_noise
from concepts_cli.models.text import TextEncoder, freeze
from concepts_cli.models.unet_attention import UNetAttention


class StableDiffusion(DiffusionModel):
    """A frozen latent diffusion model with a CLIP text encoder, a UNet2DConditionModel and an AutoencoderKL."""

    is_causal = True
    samplers = tuple(SCHEDULERS)

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        self.name, self.device, self.dtype = name, device, dtype
        self.tokenizer, self.scheduler_config = pipeline.tokenizer, pipeline.scheduler.config
        self.text_encoder, self.unet, self.vae = pipeline.text_encoder, pipeline.unet, pipeline.vae
        freeze((self.text_encoder, self.unet, self.vae), device)
        self.text = TextEncoder(self.tokenizer, self.text_encoder, name)
        self.max_tokens = self.text.max_tokens
        self.noise = scheduled_noise(self.scheduler_config, device)
        self.attention = UNetAttention(self.unet)
        self.size_multiple = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.resolution = self.unet.config.sample_size * self.size_multiple

    @classmethod
    def load(
        cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype
    ) -> StableDiffusion:
        """Load a folder or hub id. Raises what diffusers raises if it is incomplete."""
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            source,
            revision=revision,
            **{"dtype" if release >= (0, 40) else "torch_dtype": dtype},
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            use_safetensors=True,  # nothing is unpickled
        )
        return cls(pipeline, name, device=device, dtype=dtype)

    # ---- text

    @property
    def tables(self) -> Mapping[str, Tensor]:
        return {SOLE_ENCODER: self.text.table}

    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor]) -> None:
        self.text.set_concepts(tokens, embeddings[SOLE_ENCODER])

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        return Tokens({SOLE_ENCODER: self.text.tokenize(prompts)})

    def encode(self, tokens: Tokens) -> Conditioning:
        return Conditioning({"hidden_states": self.text(tokens.tensors[SOLE_ENCODER])})

    def pieces(self, text: str) -> Mapping[str, list[int]]:
        return {SOLE_ENCODER: self.text.pieces(text)}

    def whole_words(self) -> Mapping[str, int]:
        return self.text.whole_words()

    def positions(self, prompt: str, text: str) -> list[int]:
        return self.text.positions(prompt, text)

    def is_truncated(self, prompt: str) -> bool:
        return self.text.is_truncated(prompt)

    # ---- images

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        height, width = ((side or self.resolution) // self.size_multiple for side in (height, width))
        return (self.unet.config.in_channels, height, width)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    @property
    def fingerprint(self) -> str:
        settings = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for key, tensor in sorted(self.vae.encoder.state_dict().items()):
            digest.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    # ---- the network

    def sampler(self, name: str | None = None) -> DiffusersSampler:
        return DiffusersSampler(self.scheduler(name))

    def scheduler(self, name: str | None = None) -> Any:
        """A new diffusers scheduler by its short name, with the model's own noise schedule."""
        return diffusers_scheduler(self.sampler_name(name), self.scheduler_config)

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden_states"].to(self.dtype)
        return self.unet(latents.to(self.dtype), time, hidden, return_dict=False)[0].float()

    def compile(self) -> None:
        self.unet.compile()

    def checkpoint_gradients(self) -> None:
        self.unet.enable_gradient_checkpointing()
        self.text.checkpoint_gradients()
