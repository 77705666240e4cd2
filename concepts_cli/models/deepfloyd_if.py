"""DeepFloyd IF, stage I (DeepFloyd Lab, 2023): a UNet that denoises pixels and reads prompts through T5.

Shapes: B batch, K terms, C H W pixels, in [-1, 1] as the UNet has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.samplers import DiffusersSampler
from concepts_cli.models.t5 import T5Diffusion, T5Encoder
from concepts_cli.models.unet_attention import UNetAttention


class ShortT5Encoder(T5Encoder):
    most_tokens = 77


class DeepFloydIF(T5Diffusion):
    """Small pictures, which stages II and III enlarge. An image is its own latents.

    The UNet predicts the noise, which concepts are learned from and composed by, and a variance, which the sampler
    `ddpm` adds noise by. The samplers are those that threshold pixels, as the published schedule says.
    """

    pipeline_class = "IFPipeline"
    network_name = "unet"
    text_class = ShortT5Encoder
    left_out: ClassVar = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    samplers = ("ddim", "ddpm", "dpm++", "dpm++karras", "dpm++sde", "deis", "unipc")

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(pipeline, name, device=device, dtype=dtype)
        self.attention = UNetAttention(self.network)
        self.resolution = self.network.config.sample_size
        self.size_multiple = 2 ** (len(self.network.config.block_out_channels) - 1)
        self._variance: Tensor | None = None  # of the latest prediction's rows

    def read(self, tokens: Tokens) -> Conditioning:
        """T5 leaves out padding, but the UNet attends to all tokens, as published."""
        return Conditioning({"hidden_states": self.text.states(tokens.tensors[SOLE_ENCODER], tokens.tensors["mask"])})

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        return (self.network.config.in_channels, height or self.resolution, width or self.resolution)

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = pixels.to(self.device).float()
        return pixels, torch.zeros_like(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1)

    @property
    def fingerprint(self) -> str:
        return "pixels"

    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["hidden_states"].to(self.dtype)
        both = self.network(latents.to(self.dtype), time, hidden, return_dict=False)[0].float()
        noise, variance = both.split(latents.shape[1], dim=1)
        if not torch.is_grad_enabled():
            self._variance = variance
        return noise

    def sampler(self, name: str | None = None, *, size: tuple[int, int] | None = None) -> DiffusersSampler:
        if self.sampler_name(name) != "ddpm" or self.scheduler_config.get("variance_type") != "learned_range":
            return super().sampler(name)
        return LearnedVariance(self.scheduler(name), self._take_variance)

    def _take_variance(self) -> Tensor | None:
        variance, self._variance = self._variance, None
        return variance


class LearnedVariance(DiffusersSampler):
    """DDPM with the variance that the network predicts beside the noise (Nichol and Dhariwal, ICML 2021).

    That of an image is its prompt's, as in diffusers, or the mean of its terms'.
    """

    def __init__(self, scheduler: Any, take_variance: Callable[[], Tensor | None]):
        """`take_variance` gives that of the latest prediction's rows, B times an unconditional one and K of terms."""
        super().__init__(scheduler)
        self._take_variance = take_variance

    def step(
        self,
        prediction: Tensor,
        time: Tensor,
        latents: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
        eta: float = 0,
    ) -> Tensor:
        rows = self._take_variance()
        if rows is None:  # all terms are another model's
            variance = torch.full_like(prediction, -1)  # the smallest
        else:
            rows = rows.unflatten(0, (len(latents), -1))  # (B, 1 + K, C, H, W)
            variance = rows[:, 1 if rows.shape[1] > 1 else 0 :].mean(dim=1)
        both = torch.cat([prediction, variance], dim=1)
        return super().step(both, time, latents, generators=generators, eta=eta)
