"""Stage `unet`: the text-conditioned denoiser, on latents that are encoded once.

It learns the velocity of a cosine schedule (Salimans & Ho, https://arxiv.org/abs/2202.00512). The learning rate is flat
for most of a budget, so training can continue at any time. Without a checkpoint in OUT it starts from the weights in
the package, if there are any, with a new optimizer: `pretrain corpus unet export --minutes 60` in a fresh clone trains
the shipped model for another hour.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import MOST_PARTS
from concepts_cli.mini.tokenizer import MAX_TOKENS, tokenize
from concepts_cli.mini.workshop.optimizers import muon_and_adamw
from concepts_cli.mini.workshop.scenes import CAPTIONS, Scenes
from concepts_cli.mini.workshop.schedule import build_scheduler
from concepts_cli.mini.workshop.train_autoencoder import pixels
from concepts_cli.mini.workshop.training import (
    CPU,
    Budget,
    Step,
    Training,
    half_precision,
    step_rng,
    warmup_flat_cooldown,
)

BATCH_SIZE = 64
EMPTY_CAPTIONS = 0.1  # the share that is trained without a caption, for guidance
ADDITIVITY = 0.15  # the weight of `additivity_gap` beside the error
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
    """(B,) timesteps in random order: a fifth uniform, the rest around the middle and above, where shapes form."""
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    # Stratified: each batch covers the whole range.
    quantiles = (torch.arange(count, device=generator.device) + torch.rand(count, **where)) / count
    shares = torch.sigmoid(0.3 + torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))
    shares = torch.where(torch.rand(count, **where) < 0.2, torch.rand(count, **where), shares)
    shares = shares[torch.randperm(count, **where)]
    return (shares * 1000).long().clamp(0, 999)


def read_autoencoder(folder: Path, weights: Path = WEIGHTS) -> AutoencoderKL:
    """The trained autoencoder in `folder`, else the shipped one: frozen, float32."""
    source = folder if (folder / "vae").exists() else weights
    return AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)


@torch.inference_mode()
def encode_latents(
    scenes: Scenes, vae: AutoencoderKL, path: Path, *, device: torch.device = CPU, batch_size: int = 64
) -> None:
    """Write the mean latents of every scene: (N, 4, 16, 16) float16."""
    part = path.with_suffix(".part.npy")
    latents = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=(len(scenes), 4, 16, 16))
    vae = vae.to(device, memory_format=torch.channels_last)
    for start in range(0, len(scenes), batch_size):
        batch = slice(start, start + batch_size)
        encoded = vae.encode(pixels(scenes.images[batch], device)).latent_dist.mean * vae.config.scaling_factor
        latents[batch] = encoded.cpu().numpy()
    latents.flush()
    part.replace(path)


def tokenized(texts: Sequence[Sequence[str]], count: int) -> Tensor:
    """N lists of captions -> (N, count, MAX_TOKENS) token ids; a list that is shorter ends in empty captions."""
    places = {text: i for i, text in enumerate(dict.fromkeys(["", *(text for each in texts for text in each)]))}
    padded = [[places[text] for text in (*each, *[""] * (count - len(each)))] for each in texts]
    return tokenize(list(places))[torch.tensor(padded)]


def additivity_gap(whole: Tensor, parts: Tensor) -> Tensor:
    """The squared distance between two changes of a prediction (B, C, H, W), relative to the first: a mean over B.

    Relative, since at high noise, where it is decided what goes where, a caption changes little.
    """
    distances, sizes = (each.square().mean(dim=(1, 2, 3)) for each in (whole - parts, whole))
    return (distances / sizes.clamp_min(0.01)).mean()


class Denoiser(nn.Module):
    """A UNet that takes and returns nothing but tensors."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, encoder_hidden_states=hidden, return_dict=False)[0]


def recorded(unet: UNet2DConditionModel, batch_size: int, width: int) -> Callable[[Tensor, Tensor, Tensor], Any]:
    """The UNet; on a GPU replayed as a CUDA graph, since its kernels are too small to be launched one by one."""
    device = unet.device
    if device.type != "cuda":
        return Denoiser(unet)
    noisy = torch.randn(batch_size, 4, 16, 16, device=device).contiguous(memory_format=torch.channels_last)
    hidden = torch.randn(batch_size, MAX_TOKENS, width, device=device, requires_grad=True)
    timesteps = torch.zeros(batch_size, dtype=torch.long, device=device)
    with half_precision(device):
        return torch.cuda.make_graphed_callables(Denoiser(unet), (noisy, timesteps, hidden), allow_unused_input=True)


def train_unet(
    scenes: Scenes,
    latents: np.ndarray,
    text_encoder: CLIPTextModel,
    folder: Path,
    *,
    seed: int,
    budget: Budget,
    device: torch.device = CPU,
    batch_size: int = BATCH_SIZE,
    lr: float = 2.5e-3,
    weights: Path = WEIGHTS,
) -> Iterator[Step]:
    """Train from `folder/unet.pt`, else from the pipeline in `weights`, else from scratch with `text_encoder`.

    Beside the error of the velocity it minimizes, on scenes that consist of several parts, the gap between what a
    caption of the whole changes and the sum of what captions of the parts change. So scores add up, as a composition
    (eq. 11) expects of them: the score of "a dog" alone would draw a dog where the castle is to be.
    """
    torch.manual_seed(seed)
    start = {"steps": 0, "samples": 0}
    unet = build_unet()
    if (weights / "training.json").exists():
        start = json.loads((weights / "training.json").read_text())
        unet = UNet2DConditionModel.from_pretrained(weights / "unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", torch_dtype=torch.float32)  # nosec B615
    unet = unet.train().to(device, memory_format=torch.channels_last)
    text_encoder.to(device).requires_grad_(True).train()
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
    images = torch.from_numpy(latents).to(device)
    captions = tokenized(scenes.captions, CAPTIONS).to(device)
    parts = tokenized(scenes.parts, 1 + MOST_PARTS).to(device)
    several = np.flatnonzero([len(each) > 2 for each in scenes.parts])
    nothing = tokenize([""]).to(device)
    alphas = build_scheduler().alphas_cumprod.to(device)
    calls = 2 + MOST_PARTS  # of the denoiser, for a composition: no caption, all of it, and its parts
    composed_size = max(1, batch_size // 8)
    denoise = recorded(unet, batch_size + calls * composed_size, text_encoder.config.hidden_size)

    def losses(step: int) -> dict[str, Tensor]:
        rng, generator = step_rng(seed, step, device)
        alone = rng.integers(len(scenes), size=batch_size)
        composed = several[rng.integers(len(several), size=composed_size)]
        chosen = torch.from_numpy(np.concatenate([alone, composed])).to(device)
        clean = images[chosen].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        timesteps = torch.cat([sample_timesteps(len(each), generator) for each in (alone, composed)])
        alpha = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
        noisy, velocity = alpha * clean + sigma * noise, alpha * noise - sigma * clean

        which = torch.from_numpy(rng.integers(CAPTIONS, size=batch_size)).to(device)
        empty = torch.from_numpy(rng.random(batch_size) < EMPTY_CAPTIONS).to(device)
        said = torch.where(empty[:, None], nothing, captions[chosen[:batch_size], which])
        pieces = torch.cat([nothing.expand(len(composed), 1, -1), parts[chosen[batch_size:]]], dim=1)
        times = torch.tensor([1] * batch_size + [calls] * len(composed), device=device)
        with half_precision(device):
            hidden = text_encoder(torch.cat([said, pieces.flatten(0, 1)])).last_hidden_state
            inputs, when = (each.repeat_interleave(times, 0, output_size=len(hidden)) for each in (noisy, timesteps))
            predicted = denoise(inputs.contiguous(memory_format=torch.channels_last), when, hidden).float()
        unsaid, whole, *each = predicted[batch_size:].unflatten(0, (-1, calls)).unbind(dim=1)
        error = (torch.cat([predicted[:batch_size], whole]) - velocity).square().mean()
        gap = additivity_gap((whole - unsaid).detach(), sum(part - unsaid for part in each))
        return {"loss": error + ADDITIVITY * gap, "error": error, "gap": gap}

    yield from training.run(budget, losses)
