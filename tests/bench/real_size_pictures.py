"""The commands that make pictures or read them, as work of a few pictures each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from concepts_cli.core.concepts import initial_embeddings
from concepts_cli.core.draws import seeded
from concepts_cli.core.encoding import encode_records
from concepts_cli.core.heat_maps import encoded, score_gains, shares
from concepts_cli.core.sampling import Term, composition, generate, guided
from concepts_cli.data.records import read_images
from concepts_cli.models.unet_diffusion import UNetDiffusion
from concepts_cli.recipe import SampleSettings, load_recipe

PROMPT = "a photo of a {}"


def picture_work(
    what: str, model: UNetDiffusion, tokens: Sequence[str], *, count: int = 4, steps: int = 50, side: int = 512
) -> Callable[[], object]:
    """A function that makes or reads `count` pictures of `side` px."""
    words = initial_embeddings(model, len(tokens), words=None, spread=1.0, generator=seeded(0, "bench"))
    model.set_concepts(tokens, {name: table.to(model.device) for name, table in words.items()})
    settings = SampleSettings(steps=steps, batch_size=count, height=side, width=side)
    prompts = [PROMPT.format(token) for token in tokens]
    if what == "sample":
        requests = [guided(prompts[n % len(prompts)], 7.5, seed=n) for n in range(count)]
        return lambda: list(generate(model, requests, settings))
    if what == "compose":
        terms = [Term(prompt, 5.0) for prompt in prompts[:2]]
        requests = [composition(terms, seed=n) for n in range(count)]
        return lambda: list(generate(model, requests, settings))
    if what == "visualize":
        pixels = torch.rand(count, 3, side, side) * 2 - 1
        return lambda: shares(score_gains(model, encoded(model, pixels), prompts)).cpu()
    recipe = load_recipe("imagenet-tuned", ["data.images=.", f"data.resolution={side}"])

    def encode() -> list[object]:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{n}.png") for n in range(count)]
            for n, path in enumerate(paths):
                Image.effect_noise((side, side), 40 + n).convert("RGB").save(path)
            return list(encode_records(model, read_images(paths), recipe=recipe, tokens=tokens, steps=steps))

    return encode
