"""Do composed objects show together? Pairs of the built-in model's words, composed in every way, judged by its reader.

    python -m tests.bench.composition                    texts: 60 random pairs, 4 pictures each, some 25 minutes
    python -m tests.bench.composition --run runs/demo    all pairs of a run's concepts

Prints Markdown. *Both* is the share of pictures in which the reader sees both; *each on its side* the share in which it
sees the first in the left half and the second in the right one, each half by itself. The way "scenes" draws scenes of
the corpus with one object's middle in each half: what the reader makes of the real thing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from concepts_cli.core.places import parse_place
from concepts_cli.core.sampling import Request, TaughtModel, Term, composition, generate
from concepts_cli.metrics.assignment import assign
from concepts_cli.metrics.labels import read_labels
from concepts_cli.metrics.scores import match_one_to_one
from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES
from concepts_cli.mini.corpus import SIZE, draw_scene
from concepts_cli.mini.workshop.measure import load_reader
from concepts_cli.mini.workshop.measure_pictures import draw_pairs
from concepts_cli.mini.workshop.train_reader import read
from concepts_cli.models import load_model
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run

WAYS = ("one prompt", "sum", "corrected", "places", "places corrected", "scenes")
Pair = tuple[int, int]  # places in CLASSES


def subjects(run: Run | None) -> dict[int, str]:
    """A prompt for each class: the model's own word, or the concept of a run that stands for it."""
    if not run:
        return {i: f"a {name}" for i, name in enumerate(CLASSES)}
    labels = read_labels(run.recipe.evaluate.labels, [record.path for record in run.images])
    result = assign(run.weights.numpy(), labels)
    return {
        CLASSES.index(result.classes[c]): run.recipe.concepts.prompt_beside_of(run.tokens[k])
        for k, c in match_one_to_one(result.counts).items()
    }


def terms(way: str, prompts: dict[int, str], pair: Pair, weight: float) -> list[Term]:
    first, second = (prompts[i] for i in pair)
    if way == "one prompt":
        return [Term(f"a photo of {first} and {second}", weight)]
    if way.startswith("places"):
        return [Term(first, weight, place=parse_place("left")), Term(second, weight, place=parse_place("right"))]
    return [Term(first, weight), Term(second, weight)]


def real_scenes(pairs: Sequence[Pair], each: int, seed: int) -> np.ndarray:
    """Scenes with the first object's middle in the left half and the second's in the right: (N, 64, 64, 3)."""
    pictures = []
    for row, (a, b) in enumerate(pairs):
        rng, left = np.random.default_rng((seed, row)), len(pictures)
        while len(pictures) < left + each:
            scene = draw_scene(rng, labels=(CLASSES[a], CLASSES[b]), night=False, style="")
            (x, _), (other, _) = scene.facts.middles
            if x < SIZE / 2 < other:
                pictures.append(scene.image)
    return np.stack(pictures)


def halves(pictures: np.ndarray) -> np.ndarray:
    """The left halves, then the right ones, each in the middle of a picture of its own background: (2 N, 64, 64, 3)."""
    size = pictures.shape[2]
    left, right = pictures[:, :, : size // 2], pictures[:, :, size // 2 :]
    padding = [(0, 0), (0, 0), (size // 4, size // 4), (0, 0)]
    return np.concatenate([np.pad(half, padding, mode="edge") for half in (left, right)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.composition", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="compose this run's concepts instead of the model's own words")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--each", type=int, default=4, help="pictures of each pair")
    parser.add_argument("--weight", type=float, default=5.0)
    parser.add_argument("--place-weight", type=float, default=8.0, help="of a term with a place")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--corrector-steps", type=int, default=10)
    parser.add_argument("--corrector-step-size", type=float, default=SampleSettings.corrector_step_size)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grids", type=Path, help="write the pictures into this folder")
    chosen = parser.parse_args(arguments)
    run = Run(chosen.run) if chosen.run else None
    model = run.load_model(chosen.device) if run else load_model("mini", device=chosen.device)
    prompts = subjects(run)
    pairs = list(combinations(sorted(prompts), 2)) if run else draw_pairs(chosen.pairs, chosen.seed)
    reader, limit = load_reader(WEIGHTS)
    wanted = torch.tensor(pairs).repeat_interleave(chosen.each, dim=0)
    settings = SampleSettings(steps=chosen.steps, batch_size=chosen.batch_size)
    weights = {way: chosen.place_weight if way.startswith("places") else chosen.weight for way in WAYS}
    print("| way | both % | one % | each on its side % | pictures |\n|---|---|---|---|---|")
    for way in chosen.way or WAYS:
        requests: list[Request] = [
            composition(terms(way, prompts, pair, weights[way]), chosen.seed + row * chosen.each + n)
            for row, pair in enumerate(pairs)
            for n in range(chosen.each)
        ]
        used = settings
        if way.endswith("corrected"):
            options = {"corrector_steps": chosen.corrector_steps, "corrector_step_size": chosen.corrector_step_size}
            used = replace(settings, **options)
        if way == "scenes":
            pictures = real_scenes(pairs, chosen.each, chosen.seed)
        else:
            pictures = np.stack([np.asarray(image) for image in generate({"": TaughtModel(model)}, requests, used)])
        hits = read(reader, pictures).gather(1, wanted) >= limit
        sides = read(reader, halves(pictures)).unflatten(0, (2, -1))
        on_side = torch.stack([sides[side].gather(1, wanted)[:, side] >= limit for side in (0, 1)], dim=1)
        cells = [hits.all(dim=1), hits.any(dim=1) & ~hits.all(dim=1), on_side.all(dim=1)]
        shown = " | ".join(f"{100 * float(cell.float().mean()):.1f}" for cell in cells)
        print(f"| {way} | {shown} | {len(pictures)} |", flush=True)
        if chosen.grids:
            chosen.grids.mkdir(parents=True, exist_ok=True)
            rows = [np.concatenate(list(pictures[i : i + 16]), axis=1) for i in range(0, len(pictures) // 16 * 16, 16)]
            Image.fromarray(np.concatenate(rows)).save(chosen.grids / f"{way.replace(' ', '-')}.png")


if __name__ == "__main__":
    main()
