"""What all families share that are a pipeline of diffusers: text encoders, one network, and an AutoencoderKL.

Shapes: B batch, P prompts, T tokens, C h w latents, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from concepts_cli.errors import UcdError
from concepts_cli.models import configuration_of, is_single_file
from concepts_cli.models.conditioning import Tokens
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.models.text import TextEncoder, freeze


class LatentDiffusion(DiffusionModel):
    """A frozen latent diffusion model; a family adds `noise`, `resolution`, `encode`, `predict` and its samplers."""

    is_causal = True
    pipeline_class: ClassVar[str]  # of diffusers
    network_name: ClassVar[str]  # the network's, among the pipeline's parts
    encoders: ClassVar[Mapping[str, str]]  # text encoders by the names of their embeddings -> their parts' suffix
    text_class: ClassVar[type[TextEncoder]] = TextEncoder
    left_out: ClassVar[Mapping[str, Any]]  # parts of the pipeline that are not loaded

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a pipeline without one of its text encoders."""
        self.name, self.device, self.dtype = name, device, dtype
        self.pipeline, self.scheduler_config = pipeline, pipeline.scheduler.config
        self.vae, self.network = pipeline.vae, getattr(pipeline, self.network_name)
        parts = {encoder: getattr(pipeline, f"text_encoder{suffix}") for encoder, suffix in self.encoders.items()}
        if None in parts.values():
            raise UcdError(f"{name} has no text encoder", "give a model with all of its parts")
        freeze((*parts.values(), self.network, self.vae), device)
        if device.type == "cuda":
            for module in (self.network, self.vae):
                module.to(memory_format=torch.channels_last)  # as its convolutions compute
        self.texts = {
            encoder: self.text_class(getattr(pipeline, f"tokenizer{suffix}"), parts[encoder], name)
            for encoder, suffix in self.encoders.items()
        }
        self.text = next(iter(self.texts.values()))
        self.max_tokens = self.text.max_tokens
        self.image_scale = self.size_multiple = 2 ** (len(self.vae.config.block_out_channels) - 1)

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a folder, hub id or single file. Raises what diffusers raises if it is incomplete."""
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        diffusers_class = getattr(diffusers, cls.pipeline_class, None)
        if diffusers_class is None:
            raise UcdError(f"{name} needs a newer diffusers than {diffusers.__version__}", "pip install -U diffusers")
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

    @property
    def fingerprint(self) -> str:
        settings = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for key, tensor in sorted(self.vae.encoder.state_dict().items()):
            digest.update(key.encode() + tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    # ---- the network

    def compile(self) -> None:
        self.network.compile(dynamic=False)  # one shape per kind of call: a step's do not change

    def checkpoint_gradients(self) -> None:
        self.network.enable_gradient_checkpointing()
        for text in self.texts.values():
            text.checkpoint_gradients()
