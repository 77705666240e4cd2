"""How many images a second `ucd evaluate` scores and `ucd encode` weighs.

- in batches, the next read while one is scored, over one image at a time;
- the draws of an image together in a UNet call, over one row at a time.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from concepts_cli.core import STEPS
from concepts_cli.core.concepts import concept_tokens, initial_embeddings
from concepts_cli.core.draws import seeded
from concepts_cli.core.encoding import encode_records
from concepts_cli.data.records import read_images
from concepts_cli.models import load_model
from concepts_cli.recipe import load_recipe
from concepts_cli.scorers.clip import load_built_in_clip
from concepts_cli.scorers.resnet import load_built_in_resnet
from tests.bench.timing import interleaved

IMAGES, SIDE, ENCODED, CONCEPTS, REPEATS = 256, 64, 2, 5, 5


def draw(folder: Path) -> list[Path]:
    """IMAGES smooth pictures of SIDE px, the built-in model's: noise would be slower to read."""
    rng, paths = np.random.default_rng(0), []
    for n in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        paths.append(folder / f"{n:03d}.png")
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def one_by_one(scorer, paths: list[Path]) -> None:
    for path in paths:
        scorer.features([path])


def main() -> None:
    cpu = torch.device("cpu")
    print(f"{IMAGES} images, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder))
        for scorer in (load_built_in_clip(cpu), load_built_in_resnet(cpu)):
            ways = {"one at a time": partial(one_by_one, scorer, paths), "batches": partial(scorer.features, paths)}
            median = interleaved(ways, REPEATS)
            for name, seconds in median.items():
                print(f"{scorer.name:>16}, {name:<14} {IMAGES / seconds:7.0f} images/s")
            print(f"{scorer.name:>16}, batches / one at a time  {median['one at a time'] / median['batches']:.2f}")
        model, recipe, tokens = load_model("mini", device="cpu"), load_recipe("quickstart"), concept_tokens(CONCEPTS)
        start = initial_embeddings(model, CONCEPTS, words=None, spread=1.0, generator=seeded(0, "bench"))
        model.set_concepts(tokens, start)
        records = read_images(paths[:ENCODED])

        def weigh(rows: int) -> None:
            list(encode_records(model, records, recipe=recipe, tokens=tokens, rows=rows))

        ways = {"a row a call": partial(weigh, 1), "draws together": partial(weigh, 48)}
        median = interleaved(ways, 3)
    for name, seconds in median.items():
        print(f"encode, {CONCEPTS} concepts, {STEPS} draws, {name:<14} {ENCODED / seconds:7.2f} images/s")
    print(f"together / a row a call  {median['a row a call'] / median['draws together']:.2f}")
