"""Pictures that show nothing, so that those who judge pictures learn to say so: noise, blanks, the half-denoised."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.mini.workshop.schedule import build_scheduler
from concepts_cli.mini.workshop.train_autoencoder import pixels

BANK = 4096  # half-denoised scenes that a training draws from
KINDS = ("noise", "blank", "half-denoised")
HALF_WAY = (400, 1000)  # timesteps at which a scene counts as unseen: its signal is at most 1.3 times its noise


@torch.inference_mode()
def half_denoised(vae: AutoencoderKL, images: np.ndarray, generator: torch.Generator, batch_size: int = 64) -> Tensor:
    """Scenes (B, 64, 64, 3) uint8 with so much noise in their latents that they are yet to be seen, decoded.

    Returns (B, 3, 64, 64) in [-1, 1].
    """
    alphas, decoded = build_scheduler().alphas_cumprod, []
    for start in range(0, len(images), batch_size):
        latents = vae.encode(pixels(images[start : start + batch_size])).latent_dist.mean * vae.config.scaling_factor
        alpha = alphas[torch.randint(*HALF_WAY, (len(latents),), generator=generator)].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * torch.randn(latents.shape, generator=generator)
        decoded.append(vae.decode(noisy / vae.config.scaling_factor).sample.clamp(-1, 1))
    return torch.cat(decoded)


def noise(count: int, generator: torch.Generator) -> Tensor:
    """Noise around a random colour, fine or in blots: (B, 3, 64, 64) in [-1, 1]."""
    grains = torch.randint(4, (count,), generator=generator)
    pictures = []
    for grain in grains.tolist():
        fine = torch.randn(1, 3, 64 >> grain, 64 >> grain, generator=generator)
        pictures.append(F.interpolate(fine, size=64, mode="bilinear" if grain else "nearest"))
    strength = 0.05 + 0.95 * torch.rand(count, 1, 1, 1, generator=generator)
    colour = 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1
    return (colour + strength * torch.cat(pictures)).clamp(-1, 1)


def blanks(count: int, generator: torch.Generator) -> Tensor:
    """Plain or graded colours: (B, 3, 64, 64) in [-1, 1]."""
    corners = 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1
    slopes = 0.6 * torch.rand(count, 3, 2, 2, generator=generator) - 0.3
    graded = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return (corners + graded * F.interpolate(slopes, size=64, mode="bilinear")).clamp(-1, 1)


def draw_nothing(kind: str, count: int, vae: AutoencoderKL, scenes: np.ndarray, generator: torch.Generator) -> Tensor:
    """`count` pictures of one of KINDS: (B, 3, 64, 64) in [-1, 1]; `scenes` (N, 64, 64, 3) are half-denoised."""
    if kind == "half-denoised":
        chosen = torch.randint(len(scenes), (count,), generator=generator).sort().values
        return half_denoised(vae, np.asarray(scenes[chosen.numpy()]), generator)
    return {"noise": noise, "blank": blanks}[kind](count, generator)


class NothingBank:
    """Pictures of nothing to draw from at every step: new noise and blanks, and half-denoised scenes made once."""

    def __init__(self, vae: AutoencoderKL, scenes: np.ndarray, *, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.half_denoised = draw_nothing("half-denoised", BANK, vae, scenes, generator)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # (B, 3, 64, 64)
        third = count // 3
        chosen = torch.randint(BANK, (count - 2 * third,), generator=generator)
        return torch.cat([noise(third, generator), blanks(third, generator), self.half_denoised[chosen]])
