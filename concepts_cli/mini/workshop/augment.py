"""Augmentations for training the judges of generated pictures: blur, noise, slight distortion, other colours."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two in three pictures distorted, each in its own way: (B, 3, H, W) -> (B, 3, H, W), in [-1, 1]."""
    count, originals = len(images), images
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < 2 / 3

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    # Turned by up to 10 degrees, scaled by up to 15%, moved by up to 8%, every other one mirrored.
    angle, scale = uniform(-0.17, 0.17), uniform(0.87, 1.15)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    rows = [scale * angle.cos() * flip, -scale * angle.sin(), uniform(-0.08, 0.08)]
    rows += [scale * angle.sin() * flip, scale * angle.cos(), uniform(-0.08, 0.08)]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    images = images * uniform(0.7, 1.2, 1, 1, 1) + uniform(-0.15, 0.15, 3, 1, 1)  # contrast, and a shift of colour
    blurred = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = images.lerp(blurred, uniform(-0.6, 0.8, 1, 1, 1).clamp(min=0))
    noise = torch.randn(images.shape, generator=generator)
    distorted = (images + noise * uniform(-0.1, 0.15, 1, 1, 1).clamp(min=0)).clamp(-1, 1)
    return torch.where(chosen, distorted, originals)


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two in three pictures in other colours, the rest unchanged: (B, 3, H, W) -> (B, 3, H, W), in [-1, 1]."""
    count = len(images)
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    order = torch.rand(count, 3, **where).argsort(dim=1)  # which channel becomes which
    shuffled = images.gather(1, order[:, :, None, None].expand_as(images))
    gain = 0.5 + 0.6 * torch.rand(count, 3, 1, 1, **where)
    shift = 0.8 * torch.rand(count, 3, 1, 1, **where) - 0.4
    chosen = torch.rand(count, 1, 1, 1, **where) < 2 / 3
    return torch.where(chosen, (shuffled * gain + shift).clamp(-1, 1), images)
