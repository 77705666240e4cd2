"""What Stable Diffusion 1, 2 and XL share: CLIP text encoders, a UNet2DConditionModel and an AutoencoderKL.

Shapes: B batch, P prompts, T tokens, C h w latents, H W pixels.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from concepts_cli.errors import UcdError
from concepts_cli.models import configuration_of, is_single_file
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.samplers import SCHEDULERS, DiffusersSampler, diffusers_scheduler, scheduled_noise
from concepts_cli.models.text import TextEncoder, freeze
from concepts_cli.models.unet_attention import UNetAttention


class LatentDiffusion(DiffusionModel):
    """A frozen latent diffusion model; a family adds `encode`, and what else its network is told."""

    is_causal = True
    samplers = tuple(SCHEDULERS)
    pipeline_class: ClassVar[str]  # of diffusers
    encoders: ClassVar[Mapping[str, str]]  # text encoders by the names of their embeddings -> their parts' suffix
    left_out: ClassVar[Mapping[str, Any]]  # parts of the pipeline that are not loaded

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a pipeline without one of its text encoders."""
        self.name, self.device, self.dtype = name, device, dtype
        self._pipeline, self.scheduler_config = pipeline, pipeline.scheduler.config
        self.unet, self.vae = pipeline.unet, pipeline.vae
        parts = {encoder: getattr(pipeline, f"text_encoder{suffix}") for encoder, suffix in self.encoders.items()}
        if None in parts.values():
            raise UcdError(f"{name} has no text encoder", "give a model with all of its parts")
        freeze((*parts.values(), self.unet, self.vae), device)
        self.texts = {
            encoder: TextEncoder(getattr(pipeline, f"tokenizer{suffix}"), parts[encoder], name)
            for encoder, suffix in self.encoders.items()
        }
        self.text = next(iter(self.texts.values()))
        self.max_tokens = self.text.max_tokens
        self.noise = scheduled_noise(self.scheduler_config, device)
        self.attention = UNetAttention(self.unet)
        self.size_multiple = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.resolution = self.unet.config.sample_size * self.size_multiple

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a folder, hub id or single file. Raises what diffusers raises if it is incomplete."""
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        diffusers_class = getattr(diffusers, cls.pipeline_class)
        if is_single_file(source):
            pipeline = diffusers_class.from_single_file(
                source, config=configuration_of(source), local_files_only=True, torch_dtype=dtype, **cls.left_out
            )
            return cls(pipeline, name, device=device, dtype=dtype)
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        pipeline = diffusers_class.from_pretrained(
            source,
            revision=revision,
            **{"dtype" if release >= (0, 40) else "torch_dtype": dtype},
            use_safetensors=True,  # nothing is unpickled
            **cls.left_out,
        )
        return cls(pipeline, name, device=device, dtype=dtype)

    @property
    def tokenizer(self) -> Any:
        """Of the first text encoder."""
        return self.text.tokenizer

    @property
    def text_encoder(self) -> Any:
        """The first text encoder."""
        return self.text.encoder

    # ---- text

    @property
    def tables(self) -> Mapping[str, Tensor]:
        return {encoder: text.table for encoder, text in self.texts.items()}

    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor]) -> None:
        for encoder, text in self.texts.items():
            text.set_concepts(tokens, embeddings[encoder])

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        return Tokens({encoder: text.tokenize(prompts) for encoder, text in self.texts.items()})

    def pieces(self, text: str) -> Mapping[str, list[int]]:
        return {encoder: own.pieces(text) for encoder, own in self.texts.items()}

    def whole_words(self) -> Mapping[str, int]:
        return self.text.whole_words()

    def positions(self, prompt: str, text: str) -> list[int]:
        return self.text.positions(prompt, text)

    def is_truncated(self, prompt: str) -> bool:
        return any(text.is_truncated(prompt) for text in self.texts.values())

    # ---- images

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        height, width = ((side or self.resolution) // self.size_multiple for side in (height, width))
        return (self.unet.config.in_channels, height, width)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return (self.vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

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

    def diffusers_pipeline(self, scheduler: str | None = None) -> Any:
        """diffusers' own pipeline around these networks, learned words included, with one of `samplers`."""
        pipeline = copy.copy(self._pipeline)
        pipeline.scheduler = self.scheduler(scheduler)
        return pipeline

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden_states"].to(self.dtype)
        added = self._added(latents, conditioning)
        return self.unet(latents.to(self.dtype), time, hidden, added_cond_kwargs=added, return_dict=False)[0].float()

    def _added(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        """What else the network is told about each of the B rows."""
        return None

    def compile(self) -> None:
        self.unet.compile()

    def checkpoint_gradients(self) -> None:
        self.unet.enable_gradient_checkpointing()
        for text in self.texts.values():
            text.checkpoint_gradients()
