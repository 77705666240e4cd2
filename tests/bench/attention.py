"""What it costs to record attention, and to look for many concepts.

- generation with recording over generation alone;
- all K concepts of an image in one stacked pass over one at a time (inversion, and the recorded way back);
- what the recorder holds after few steps and after many.
"""

from __future__ import annotations

import torch

from concepts_cli.core.concepts import concept_tokens, initial_embeddings
from concepts_cli.core.discovery import seeded
from concepts_cli.core.heat_maps import reconstruct
from concepts_cli.core.sampling import generate, guided
from concepts_cli.models import load_model
from concepts_cli.models.unet_attention import record_attention
from concepts_cli.recipe import SampleSettings
from tests.bench.timing import interleaved

IMAGES, CONCEPTS, STEPS, REPEATS = 4, 5, 10, 7


def main() -> None:
    model, tokens = load_model("mini", device="cpu"), concept_tokens(CONCEPTS)
    embeddings = initial_embeddings(model, CONCEPTS, words=None, spread=1.0, generator=seeded(0, "bench"))
    model.set_concepts(tokens, embeddings)
    prompts = [f"a photo of a {token}" for token in tokens]
    requests = [guided(prompts[0], 5.0, seed) for seed in range(IMAGES)]

    def generation(steps: int = STEPS) -> None:
        list(generate(model, requests, SampleSettings(steps=steps)))

    def recorded(steps: int = STEPS) -> int:
        with record_attention(model.unet, rows=slice(1, None, 2)) as recorder:
            generation(steps)
        recorder.maps()
        return sum(maps.numel() * maps.element_size() for maps in recorder.sums.values())

    latents = torch.randn(1, *model.latent_shape())

    def stacked() -> None:
        reconstruct(model, latents.expand(CONCEPTS, -1, -1, -1), prompts, num_inference_steps=STEPS)

    def one_by_one() -> None:
        for prompt in prompts:
            reconstruct(model, latents, [prompt], num_inference_steps=STEPS)

    median = interleaved({"generation": generation, "recorded": recorded}, REPEATS)
    median |= interleaved({"stacked": stacked, "one by one": one_by_one}, REPEATS)
    print(f"model mini, {IMAGES} images, {CONCEPTS} concepts, {STEPS} steps, {torch.get_num_threads()} threads")
    for name, seconds in median.items():
        print(f"{name:>16}  {seconds * 1000:8.1f} ms")
    print(f"recorded / generation alone  {median['recorded'] / median['generation']:.2f}")
    print(f"one by one / stacked         {median['one by one'] / median['stacked']:.2f}")
    few, many = recorded(2), recorded(20)
    print(f"held after 20 steps / after 2  {many / few:.2f}  ({few / 2**20:.2f} MiB)")
