"""A training step as the published trainer takes it, written out here: what ours is compared with.

A UNet call per concept, the unconditional one with gradient too, each text encoded for its call, the images through the
VAE every time, and AdamW over the whole table of words, whose old rows are written back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.recipe.prompts import OBJECT


def published_step(
    model: StableDiffusion, tokens: Sequence[str], *, images: int, batch: int, accumulation: int = 1, side: int = 0
) -> Callable[[], float]:
    """A function that takes a step over `accumulation` batches of random pictures of `side` px; it returns the loss."""
    device, dtype, side = model.device, model.dtype, side or model.resolution
    schedule, scale = model.scheduler("ddpm"), model.vae.config.scaling_factor
    frozen = {encoder: table.float() for encoder, table in model.tables.items()}
    tables = {
        encoder: torch.nn.Parameter(torch.cat([table, 0.01 * torch.randn(len(tokens), table.shape[1], device=device)]))
        for encoder, table in frozen.items()
    }
    weights = torch.nn.Parameter(torch.ones(images, len(tokens), device=device))
    optimizer = torch.optim.AdamW([*tables.values(), weights], lr=1e-2)
    learned = slice(-len(tokens), None)
    pixels = torch.rand(batch, 3, side, side, device=device, dtype=model.vae.dtype) * 2 - 1

    def forward() -> torch.Tensor:
        with torch.no_grad():
            latents = (model.vae.encode(pixels).latent_dist.sample() * scale).to(dtype)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (batch,), device=device)
        noisy = schedule.add_noise(latents, noise, timesteps)
        uncond = model.predict(noisy, timesteps, model.encode_prompts([""] * batch))
        composed = uncond
        for k, token in enumerate(tokens):
            score = model.predict(noisy, timesteps, model.encode_prompts([OBJECT[0].format(token)] * batch))
            composed = composed + weights[:batch, k, None, None, None] * (score - uncond)
        return F.mse_loss(composed, noise.float())

    def step() -> float:
        model.set_concepts(tokens, {encoder: table[learned] for encoder, table in tables.items()})
        total = 0.0
        for _ in range(accumulation):
            loss = forward()
            (loss / accumulation).backward(retain_graph=accumulation > 1)
            total += loss.item() / accumulation
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for encoder, table in tables.items():
                table[: -len(tokens)] = frozen[encoder]
        return total

    return step
