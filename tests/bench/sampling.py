"""What sampling costs.

- the published script's way of a composition of two terms (for each term at each step its text encoded, a pass with it
  and one without, and a decoded picture), written out here, over ours;
- 64 samples of 5 concepts, one prompt after another, over the same stacked;
- our sampling loop over the bare calls of UNet and scheduler that it can't do without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from concepts_cli.core.concepts import concept_tokens, initial_embeddings
from concepts_cli.core.discovery import seeded
from concepts_cli.core.sampling import Term, composed_scores, composition, denoise, generate, guided, seeded_noise
from concepts_cli.models import load_model
from concepts_cli.recipe import SampleSettings
from tests.bench.timing import interleaved

CONCEPTS, SAMPLES, BATCH, STEPS, REPEATS = 5, 64, 8, 50, 5


def published_composition(model, terms: tuple[Term, ...], steps: int) -> Callable[[], None]:
    """A picture as the published script composes it."""

    @torch.no_grad()
    def compose() -> None:
        scheduler = model.scheduler("ddim")
        scheduler.set_timesteps(steps)
        latents = seeded_noise(model, [torch.Generator().manual_seed(0)])
        for timestep in scheduler.timesteps:
            composed, unconditional = 0, 0
            for term in terms:
                cond = model.predict(latents, timestep, model.encode_prompts([term.prompt]))
                uncond = model.predict(latents, timestep, model.encode_prompts([""]))
                composed = composed + term.weight * (cond - uncond)
                unconditional = unconditional + uncond / len(terms)
            step = scheduler.step(unconditional + composed, timestep, latents)
            latents = step.prev_sample
            for shown in (step.pred_original_sample, latents):
                model.decode(shown)

    return compose


def bare_loop(model, request, steps: int) -> Callable[[], None]:
    """One stacked UNet call and one scheduler step at a time, texts encoded before: what no sampler can leave out."""
    prompts = ["", *(term.prompt for term in request.terms)]
    hidden = model.encode_prompts(prompts).tensors["hidden_states"].detach()
    noise = torch.randn(1, *model.latent_shape())

    @torch.no_grad()
    def loop() -> None:
        scheduler = model.scheduler("ddim")
        scheduler.set_timesteps(steps)
        latents = noise
        for timestep in scheduler.timesteps:
            scores = model.unet(latents.expand(len(prompts), -1, -1, -1), timestep, hidden, return_dict=False)[0]
            latents = scheduler.step(scores[:1], timestep, latents, return_dict=False)[0]

    return loop


def main() -> None:
    model = load_model("mini", device="cpu")
    tokens = concept_tokens(CONCEPTS)
    words = initial_embeddings(model, CONCEPTS, words=None, spread=1.0, generator=seeded(0, "bench"))
    model.set_concepts(tokens, words)
    prompts = [f"a photo of a {token}" for token in tokens]
    request = composition([Term(prompts[0], 4.0), Term(prompts[1], 4.0)], seed=0)
    print(f"model mini, {torch.get_num_threads()} threads")

    median = interleaved(
        {
            "published composition": published_composition(model, request.terms, STEPS),
            "our composition": lambda: list(generate(model, [request], SampleSettings(steps=STEPS))),
        },
        REPEATS,
    )
    report(median, f"published / ours, {len(request.terms)} terms, {STEPS} steps")

    texts = composed_scores(model, [request])

    def our_loop() -> None:
        noise = seeded_noise(model, [torch.Generator().manual_seed(0)])
        for _ in denoise(model.sampler("ddim"), noise, texts, STEPS):
            pass

    median = interleaved({"our loop": our_loop, "bare UNet and scheduler": bare_loop(model, request, STEPS)}, REPEATS)
    report(median, f"ours / bare loop, {STEPS} steps")

    requests = [guided(prompt, 7.5, seed) for seed, prompt in zip(range(SAMPLES), itertools.cycle(prompts))]
    few = 4  # steps: the ratio is the same at 50

    def one_by_one() -> None:
        for one in requests:
            list(generate(model, [one], SampleSettings(steps=few)))

    stacked = {"one prompt after another": one_by_one}
    stacked["stacked"] = lambda: list(generate(model, requests, SampleSettings(steps=few, batch_size=BATCH)))
    report(interleaved(stacked, 2), f"one by one / stacked, {SAMPLES} samples of {CONCEPTS} concepts, batch {BATCH}")


def report(median: dict[str, float], ratio: str) -> None:
    for name, seconds in median.items():
        print(f"{name:>24}  {seconds * 1000:8.1f} ms")
    first, second = median.values()
    print(f"{ratio}: {first / second:.2f}", flush=True)
