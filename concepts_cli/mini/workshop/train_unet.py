"""Stage `unet`: the text-conditioned denoiser, on latents that are encoded once.

It learns the velocity of a cosine schedule (Salimans & Ho, https://arxiv.org/abs/2202.00512). The learning rate is flat
for most of a budget, so training can continue at any time. Without a checkpoint in OUT it starts from the weights in
the package, if there are any, with a new optimizer: `pretrain corpus unet export --minutes 60` in a fresh clone trains
the shipped model for another hour.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.tokenizer import tokenize
from concepts_cli.mini.workshop.optimizers import muon_and_adamw
from concepts_cli.mini.workshop.scenes import Scenes
from concepts_cli.mini.workshop.schedule import build_scheduler
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.training import Budget, Step, Training, step_rng, warmup_flat_cooldown

BATCH_SIZE = 64
EMPTY_CAPTIONS = 0.1  # the share that is trained without a caption, for guidance
TEXT_RATE = 0.1  # learning rate of the pretrained text encoder, relative to the denoiser's


def build_unet() -> UNet2DConditionModel:
    """A UNet for 16x16 latents, with self- and cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        attention_head_dim=4,  # in fact the number of heads
        cross_attention_dim=128,
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
    )


def sample_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """(B,) timesteps: a fifth uniform, the rest around the middle and above, where shapes are decided."""
    # Stratified: each batch covers the whole range.
    quantiles = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    shares = torch.sigmoid(0.3 + torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))
    anywhere = torch.rand(count, generator=generator)
    shares = torch.where(torch.rand(count, generator=generator) < 0.2, anywhere, shares)
    return (shares * 1000).long().clamp(0, 999)


def read_autoencoder(folder: Path, weights: Path = WEIGHTS) -> AutoencoderKL:
    """The trained autoencoder in `folder`, else the shipped one: frozen, float32."""
    source = folder if (folder / "vae").exists() else weights
    return AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)


@torch.inference_mode()
def encode_latents(scenes: Scenes, vae: AutoencoderKL, path: Path, *, batch_size: int = 64) -> None:
    """Write the mean latents of every scene: (N, 4, 16, 16) float16."""
    part = path.with_suffix(".part.npy")
    latents = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=(len(scenes), 4, 16, 16))
    vae = vae.to(memory_format=torch.channels_last)
    for start in range(0, len(scenes), batch_size):
        batch = slice(start, start + batch_size)
        latents[batch] = (vae.encode(pixels(scenes.images[batch])).latent_dist.mean * vae.config.scaling_factor).numpy()
    latents.flush()
    part.replace(path)


def train_unet(
    scenes: Scenes,
    latents: np.ndarray,
    text_encoder: CLIPTextModel,
    folder: Path,
    *,
    seed: int,
    budget: Budget,
    batch_size: int = BATCH_SIZE,
    lr: float = 2.5e-3,
    weights: Path = WEIGHTS,
) -> Iterator[Step]:
    """Train from `folder/unet.pt`, else from the pipeline in `weights`, else from scratch with `text_encoder`."""
    torch.manual_seed(seed)
    start = {"steps": 0, "samples": 0}
    unet = build_unet()
    if (weights / "training.json").exists():
        start = json.loads((weights / "training.json").read_text())
        unet = UNet2DConditionModel.from_pretrained(weights / "unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", torch_dtype=torch.float32)
    unet = unet.train().to(memory_format=torch.channels_last)
    text_encoder.requires_grad_(True).train()
    module = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    optimizers = [
        *muon_and_adamw(unet, lr),
        torch.optim.AdamW(text_encoder.parameters(), lr * TEXT_RATE, betas=(0.9, 0.95)),
    ]
    training = Training(
        module,
        optimizers,
        folder / "unet.pt",
        batch_size,
        schedule=warmup_flat_cooldown,
        step=start["steps"],
        samples=start["samples"],
    )
    ids = torch.stack([tokenize([captions[i] for captions in scenes.captions]) for i in range(len(scenes.captions[0]))])
    nothing = tokenize([""])
    alphas = build_scheduler().alphas_cumprod

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step)
        batch = np.sort(rng.integers(len(scenes), size=batch_size))
        clean = torch.from_numpy(latents[batch].astype(np.float32))
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = sample_timesteps(batch_size, generator)[torch.randperm(batch_size, generator=generator)]
        alpha = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
        noisy = (alpha * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
        empty = torch.from_numpy(rng.random(batch_size) < EMPTY_CAPTIONS)
        which = rng.integers(len(ids), size=batch_size)
        hidden = text_encoder(torch.where(empty[:, None], nothing, ids[which, batch])).last_hidden_state
        velocity = unet(noisy, timesteps, encoder_hidden_states=hidden).sample
        return {"loss": (velocity - (alpha * noise - sigma * clean)).square().mean()}

    yield from training.run(budget, losses)
