"""FLUX.2-klein (Black Forest Labs, 2026), the undistilled base model: a flow transformer whose image and prompt are two
sequences at first and then one.

Shapes: P prompts, T tokens, D embedding width, B batch, C h w latents, which are patches of the image encoder's.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.errors import UcdError
from concepts_cli.models import SOLE_ENCODER, read_index
from concepts_cli.models.chat_encoder import ChatEncoder
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.flow_transformer import PATCH, FlowTransformer, distilled
from concepts_cli.models.joint_attention import Call, JointAttention, JointLayer

BASE = "black-forest-labs/FLUX.2-klein-base-4B"
TEXT_LAYERS = (9, 18, 27)  # of the text encoder, whose states the network reads


class AnsweringEncoder(ChatEncoder):
    """Qwen3, asked to answer at once."""

    thinks = False


class Flux2Klein(FlowTransformer):
    """The network reads all T tokens of a prompt, padding included. Concepts come before the text encoder: its states
    are three times as wide as its words.
    """

    pipeline_class = "Flux2KleinPipeline"
    text_class = AnsweringEncoder
    places = ("input",)

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a distilled model, and for a schedule that is shifted in an unknown way."""
        if pipeline.config.is_distilled or pipeline.transformer.config.guidance_embeds:
            raise distilled(name, BASE)
        if pipeline.scheduler.config.get("time_shift_type", "exponential") != "exponential":
            raise UcdError(f"the schedule of {name} is shifted in an unknown way", "this is not supported")
        if pipeline.text_encoder is not None:
            pipeline.text_encoder = _layers_that_are_read(pipeline.text_encoder)
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.image_scale *= PATCH  # the network's patches are single places
        apart = enumerate(block.attn for block in self.network.transformer_blocks)
        joined = enumerate(block.attn for block in self.network.single_transformer_blocks)
        layers = {f"double.{n}": _layer(each, each.to_out[0], each.to_add_out) for n, each in apart}
        layers |= {f"single.{n}": _layer(each, each.to_out, each.to_out) for n, each in joined}
        self.attention = JointAttention(layers, reads_padding=True)

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Raises UcdError for a distilled model, before its weights are downloaded."""
        if read_index(name, revision=revision).get("is_distilled"):
            raise distilled(name, BASE)
        return super().load(source, name=name, revision=revision, device=device, dtype=dtype)

    # ---- text

    def read(self, tokens: Tokens) -> Conditioning:
        ids, mask = tokens.tensors[SOLE_ENCODER], tokens.tensors["mask"].bool()
        earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        readable = (earlier & mask[:, None, None]).to(self.device)  # (P, 1, T, T)
        needed = {"full_attention": readable}  # what transformers makes of the mask, without looking into tensors
        output = self.text.encoder(ids, attention_mask=needed, output_hidden_states=True, use_cache=False)
        hidden = torch.cat([output.hidden_states[layer] for layer in TEXT_LAYERS], dim=-1)  # (P, T, 3 * D)
        return Conditioning({"hidden_states": hidden, "mask": mask})

    # ---- images

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        mean, deviation = (F.pixel_unshuffle(each.float(), PATCH) for each in (posterior.mean, posterior.std))
        center, spread = self._statistics()
        return (mean - center) / spread, deviation / spread

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        center, spread = self._statistics()
        latents = F.pixel_shuffle(latents * spread + center, PATCH).to(self.vae.dtype)
        return (self.vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    @property
    def fingerprint(self) -> str:
        statistics = torch.stack(self._statistics()).cpu().numpy().tobytes()
        return hashlib.sha256(super().fingerprint.encode() + statistics).hexdigest()[:16]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the image encoder's patches, (C, 1, 1) each."""
        norm = self.vae.bn
        variance = norm.running_var.float() + self.vae.config.batch_norm_eps
        return norm.running_mean.float()[:, None, None], variance.sqrt()[:, None, None]

    # ---- the network

    def shift(self, num_steps: int, size: tuple[int, int]) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        if not self.scheduler_config.get("use_dynamic_shifting"):
            return float(self.scheduler_config.get("shift", 1.0))
        return math.exp(compute_empirical_mu(math.prod(size), num_steps))

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, (height, width) = conditioning.tensors["hidden_states"].to(self.dtype), latents.shape[-2:]
        one, rows, columns, order = (
            torch.arange(count, device=latents.device) for count in (1, height, width, hidden.shape[1])
        )
        mask, text = conditioning.tensors["mask"], hidden.shape[1]
        self.attention.begin(Call(time, (height, width), (height, width), mask, image_from=text, text_from=0))
        velocity = self.network(
            latents.to(self.dtype).flatten(2).mT,  # (B, h * w, C)
            hidden,
            (time / self.noise.end).expand(len(latents)),
            torch.cartesian_prod(one, rows, columns, one),  # positions: picture, row, column, token
            torch.cartesian_prod(one, one, one, order),
            return_dict=False,
        )[0]
        return velocity.float().mT.unflatten(2, (height, width))


def _layers_that_are_read(encoder: Any) -> Any:
    """The language model up to the last of TEXT_LAYERS, without what turns states into words."""
    decoder = encoder.base_model
    del decoder.layers[TEXT_LAYERS[-1] :]
    decoder.norm = nn.Identity()  # it belongs after the layers that were dropped
    return decoder


def _layer(attention: Any, image: nn.Module, text: nn.Module) -> JointLayer:
    return JointLayer(image, text, attention.heads, attention.inner_dim)
