"""What a training step costs, on the built-in model and on a tiny one of the shape of Stable Diffusion 2.1.

- the published way of a step (a UNet call per score, the unconditional one with gradient too, the images through the
VAE every time, AdamW over the whole table of words), written out here, over ours;
- our step over the UNet calls that it can't do without (stacked forward and backward, the unconditional forward);
- the peak of memory for 2, 5 and 20 concepts, one at a time in memory or all;
- the tensors that our optimizer holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from accelerate import Accelerator

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import ComposedLoss
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.recipe import TrainSettings
from concepts_cli.recipe.prompts import OBJECT
from tests.bench.memory import in_a_process, peak, start_of_peak
from tests.bench.models import NAMES, bench_model
from tests.bench.published import published_step
from tests.bench.timing import interleaved
from tests.held_latents import HeldLatents

IMAGES, CONCEPTS = 16, 5
BATCH = {"mini": 4, "tiny-sd21": 1}
REPEATS = {"mini": 15, "tiny-sd21": 3}


def our_training(
    model,
    tokens,
    batch: int,
    *,
    checkpointed: bool = False,
    accumulation: int = 1,
    side: int | None = None,
    per_image: int | None = None,
    accelerator: Accelerator | None = None,
) -> Training:
    count = len(tokens)
    start = initial_embeddings(model, count, words=None, spread=1.0, generator=seeded(0, "bench"))
    objective = ComposedLoss(
        model,
        Concepts(start, torch.ones(IMAGES, count)),
        tokens,
        OBJECT,
        checkpointed=checkpointed,
        per_image=per_image,
    )
    latents = torch.randn(2, IMAGES, *model.latent_shape(side, side))
    settings = TrainSettings(max_steps=10**6, batch_size=batch, gradient_accumulation=accumulation, learning_rate=1e-3)
    held = HeldLatents(latents, torch.ones_like(latents))
    accelerator = accelerator or Accelerator(cpu=True)
    return Training(objective, held, settings, flip_probability=0.5, accelerator=accelerator)


def bare_unet(
    model, count: int, batch: int, *, accumulation: int = 1, side: int | None = None, checkpointed: bool = False
) -> Callable[[], None]:
    """The stacked forward and backward, and the unconditional forward: what no implementation can leave out.

    `checkpointed`: one concept's forward and backward at a time, which takes as little memory.
    """
    noisy = torch.randn(batch * count, *model.latent_shape(side, side), device=model.device)
    with torch.no_grad():
        tensors = model.encode_prompts([""] * (batch * count)).tensors
    hidden = Conditioning({name: tensor.detach().requires_grad_() for name, tensor in tensors.items()})
    timesteps = torch.full((batch * count,), 500, device=model.device)
    parts = torch.arange(batch * count).split(batch if checkpointed else batch * count)

    def step() -> None:
        for _ in range(accumulation):
            with torch.no_grad():
                model.predict(noisy[:batch], timesteps[:batch], hidden[:batch])
            for part in (slice(int(rows[0]), int(rows[-1]) + 1) for rows in parts):
                model.predict(noisy[part], timesteps[part], hidden[part]).square().mean().backward()

    return step


def times(name: str, device: str) -> None:
    tokens, batch = concept_tokens(CONCEPTS), BATCH[name]
    ours_model, theirs_model = bench_model(name, device), bench_model(name, device)
    training = our_training(ours_model, tokens, batch, accelerator=Accelerator(cpu=device == "cpu"))
    steps = training.steps()
    median = interleaved(
        {
            "published step": published_step(theirs_model, tokens, images=IMAGES, batch=batch),
            "our step": lambda: next(steps),
            "bare UNet": bare_unet(ours_model, CONCEPTS, batch),
        },
        REPEATS[name],
    )
    print(f"{name}, {CONCEPTS} concepts, batch {batch}, {device}, {torch.get_num_threads()} threads")
    for what, seconds in median.items():
        print(f"  {what:<18} {seconds * 1000:8.1f} ms")
    print(f"  published / ours   {median['published step'] / median['our step']:.2f}")
    print(f"  ours / bare UNet   {median['our step'] / median['bare UNet']:.2f}")
    held = {name: tuple(value.shape) for name, value in training.state().items() if name.startswith("optimizer.")}
    shapes = ", ".join(f"{name.rpartition('.')[2]} {shape}" for name, shape in held.items() if shape)
    print(f"  optimizer holds    {shapes}", flush=True)


def memory(name: str) -> None:
    """The peak for each number of concepts, each in a process of its own, over that of none at work."""
    print(f"{name}, batch {BATCH[name]}: peak memory in MiB of a step, beyond the model's own (the whole process's)")
    for how in ("all at once", "checkpointed"):
        peaks = {count: _peak_in_a_process(name, count, how == "checkpointed") for count in (2, 5, 20)}
        shown = "   ".join(f"K = {count}: {step:.0f} ({whole:.0f})" for count, (step, whole) in peaks.items())
        growth, whole = (peaks[20][which] / peaks[2][which] for which in (0, 1))
        print(f"  {how:<14} {shown}   K = 20 / K = 2: {growth:.2f} ({whole:.2f})", flush=True)


def _peak_in_a_process(name: str, count: int, checkpointed: bool) -> tuple[float, float]:
    step, whole = in_a_process("tests.bench.training", "--peak", name, str(count), str(int(checkpointed)))
    return step, whole


def _print_peak(name: str, count: int, checkpointed: bool) -> None:
    model, tokens = bench_model(name), concept_tokens(count)
    training = our_training(model, tokens, BATCH[name], checkpointed=checkpointed)
    with torch.no_grad():  # what the libraries set up at a first call is no step's
        model.predict(torch.zeros(1, *model.latent_shape()), torch.tensor(1), model.encode_prompts([""]))
    before = start_of_peak()
    steps = training.steps()
    for _ in range(3):
        next(steps)
    print(peak() - before, peak())


def main(device: str = "cpu") -> None:
    for name in NAMES:
        times(name, device)
    for name in NAMES if device == "cpu" else ():
        memory(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.peak:
        name, count, checkpointed = options.peak
        _print_peak(name, int(count), bool(int(checkpointed)))
    else:
        main(options.device)
