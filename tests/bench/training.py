"""What a training step costs.

- the published way of a step (a UNet call per score, the unconditional one with gradient too, the images through the
VAE every time, AdamW over the whole table of words), written out here, over ours;
- our step over the UNet calls that it can't do without (stacked forward and backward, the unconditional forward);
- the tensors that our optimizer holds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import ComposedLoss, Training, seeded
from concepts_cli.data.latents import Latents
from concepts_cli.data.prompts import OBJECT
from concepts_cli.models import load_model
from concepts_cli.recipe import TrainSettings
from tests.bench.timing import interleaved

IMAGES, CONCEPTS, BATCH, REPEATS = 8, 5, 4, 10


def published_step(model, tokens, batch: int) -> Callable[[], None]:
    """A step as the published trainer does it."""
    unet, vae, noise_schedule = model.unet, model.vae, model.scheduler("ddpm")
    table = torch.nn.Parameter(torch.cat([model.token_table, torch.zeros(len(tokens), model.embedding_dim)]))
    weights = torch.nn.Parameter(torch.ones(IMAGES, len(tokens)))
    optimizer = torch.optim.AdamW([table, weights], lr=1e-2)
    first = len(model.token_table)
    pixels = torch.rand(batch, 3, model.resolution, model.resolution) * 2 - 1

    def step() -> None:
        model.set_concepts(tokens, table[first:])
        latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (batch,))
        noisy = noise_schedule.add_noise(latents, noise, timesteps)
        uncond = unet(noisy, timesteps, model.encode_prompts([""] * batch)).sample
        composed = uncond
        for k, token in enumerate(tokens):
            hidden = model.encode_prompts([OBJECT[0].format(token)] * batch)
            composed = composed + weights[:batch, k, None, None, None] * (
                unet(noisy, timesteps, hidden).sample - uncond
            )
        F.mse_loss(composed, noise).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_training(model, tokens, batch: int) -> Training:
    count = len(tokens)
    start = initial_embeddings(model, count, words=None, spread=1.0, generator=seeded(0, "bench"))
    loss = ComposedLoss(model, Concepts(start, torch.ones(IMAGES, count)), tokens, OBJECT)
    latents = torch.randn(2, IMAGES, *model.latent_shape())
    settings = TrainSettings(max_steps=10**6, batch_size=batch, gradient_accumulation=1, learning_rate=1e-3)
    return Training(
        loss, Latents(latents, torch.ones_like(latents)), settings, flip_probability=0.5, accelerator=Accelerator()
    )


def bare_unet(model, count: int, batch: int) -> Callable[[], None]:
    """The stacked forward and backward, and the unconditional forward: what no implementation can leave out."""
    noisy = torch.randn(batch * count, *model.latent_shape())
    hidden = model.encode_prompts([""] * (batch * count)).detach().requires_grad_()
    timesteps = torch.full((batch * count,), 500)

    def step() -> None:
        with torch.no_grad():
            model.predict(noisy[:batch], timesteps[:batch], hidden[:batch])
        model.predict(noisy, timesteps, hidden).square().mean().backward()

    return step


def main() -> None:
    tokens = concept_tokens(CONCEPTS)

    ours_model, theirs_model = (load_model("mini", device="cpu") for _ in range(2))
    training = our_training(ours_model, tokens, BATCH)
    steps = training.steps()
    median = interleaved(
        {
            "published step": published_step(theirs_model, tokens, BATCH),
            "our step": lambda: next(steps),
            "bare UNet": bare_unet(ours_model, CONCEPTS, BATCH),
        },
        REPEATS,
    )
    print(f"model mini, {CONCEPTS} concepts, batch {BATCH}, {torch.get_num_threads()} threads")
    for name, seconds in median.items():
        print(f"{name:>16}  {seconds * 1000:8.1f} ms")
    print(f"published / ours  {median['published step'] / median['our step']:.2f}")
    print(f"ours / bare UNet  {median['our step'] / median['bare UNet']:.2f}")
    held = {name: tuple(value.shape) for name, value in training.state().items() if name.startswith("optimizer.")}
    print("optimizer holds  ", ", ".join(f"{name.removeprefix('optimizer.')} {shape}" for name, shape in held.items()))
