"""Stage `vae`: 64 px pictures to 16x16 latents of 4 channels, and back. Stage `decoder`: a better way back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.workshop.augment import recoloured
from concepts_cli.mini.workshop.optimizers import muon_and_adamw
from concepts_cli.mini.workshop.scenes import Scenes
from concepts_cli.mini.workshop.training import CPU, Budget, Step, Training, half_precision, step_rng

BATCH_SIZE = 16
KL_WEIGHT = 5e-4  # per latent dimension


def build_autoencoder() -> AutoencoderKL:
    """An autoencoder that shrinks each side 4x; no attention, and few channels at 64 px, where most time goes."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def pixels(images: np.ndarray, device: torch.device = CPU) -> Tensor:
    """(B, 64, 64, 3) uint8 -> (B, 3, 64, 64) float32 in [-1, 1], channels last in memory."""
    return torch.tensor(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The error of decoded images, in values and in edges; and the mean squared error alone."""
    mse = F.mse_loss(decoded, images)
    slopes = sum(F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (2, 3))
    return F.l1_loss(decoded, images) + mse + 0.5 * slopes, mse


def train_autoencoder(
    scenes: Scenes,
    folder: Path,
    *,
    seed: int,
    budget: Budget,
    device: torch.device = CPU,
    batch_size: int = BATCH_SIZE,
    lr: float = 3e-3,
    weights: Path = WEIGHTS,
) -> Iterator[Step]:
    """Train from the checkpoint `folder/vae.pt`, else from the autoencoder in `weights`, else from scratch."""
    torch.manual_seed(seed)
    vae = build_autoencoder()
    if (weights / "vae").exists():
        vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).train()
    vae = vae.to(device, memory_format=torch.channels_last)
    training = Training(vae, muon_and_adamw(vae, lr, muon=False), folder / "vae.pt", batch_size, ema_decay=0.995)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step, device)
        # Otherwise it memorises the few backgrounds of the corpus, and paints any other as the nearest one.
        images = recoloured(pixels(scenes.images[rng.integers(len(scenes), size=batch_size)], device), generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            posterior = DiagonalGaussianDistribution(vae.encode(images).latent_dist.parameters.float())
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        error, mse = reconstruction(decoded, images)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": error + KL_WEIGHT * kl, "mse": mse, "kl": kl}

    yield from training.run(budget, losses)


def train_decoder(
    scenes: Scenes,
    vae: AutoencoderKL,
    folder: Path,
    *,
    seed: int,
    budget: Budget,
    device: torch.device = CPU,
    batch_size: int = BATCH_SIZE,
    lr: float = 2e-3,
) -> Iterator[Step]:
    """Train only the decoder: the latents, and everything trained on them, stay the same.

    It decodes slightly noisy latents, like a denoiser's. Continues from `folder/decoder.pt` if it exists.
    """
    vae = vae.train().requires_grad_(True).to(device, memory_format=torch.channels_last)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    optimizers = muon_and_adamw(vae, lr, muon=False)
    training = Training(vae, optimizers, folder / "decoder.pt", batch_size, ema_decay=0.995)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step, device)
        images = pixels(scenes.images[rng.integers(len(scenes), size=batch_size)], device)
        half = batch_size // 2
        images = torch.cat([images[:half], recoloured(images[half:], generator)])
        images = images.contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            with torch.no_grad():
                latents = vae.encode(images).latent_dist.mean
                latents += 0.05 * torch.randn(latents.shape, generator=generator, device=device)
            decoded = vae.decode(latents).sample.float()
        error, mse = reconstruction(decoded, images)
        return {"loss": error, "mse": mse}

    yield from training.run(budget, losses)


@torch.no_grad()
def standardized(vae: AutoencoderKL, images: np.ndarray) -> AutoencoderKL:
    """The same autoencoder, with each latent channel shifted and scaled to mean 0 and deviation 1 over `images`.

    Pipelines have one scaling factor for all channels and no shift, so both go into the 1x1 convolutions next to the
    latents.
    """
    means = torch.cat([vae.encode(pixels(images[i : i + 64])).latent_dist.mean for i in range(0, len(images), 64)])
    shift, scale = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    channels = len(shift)
    inward, outward = vae.quant_conv, vae.post_quant_conv
    inward.weight[:channels] /= scale.view(-1, 1, 1, 1)
    inward.bias[:channels] = (inward.bias[:channels] - shift) / scale
    inward.bias[channels:] -= 2 * scale.log()  # the logarithm of the variance
    outward.bias += (outward.weight[:, :, 0, 0] * shift).sum(dim=1)
    outward.weight *= scale.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
    return vae
