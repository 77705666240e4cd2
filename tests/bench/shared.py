"""Concepts that share images: random sets of the built-in world in which every image shows several things.

    python -m tests.bench.shared --kind scenes --draws 10 --first-seed 2000
    python -m tests.bench.shared --kind styles --draws 10 --first-seed 2000

A set of `scenes` has every pair of four classes, by day and at night: 24 images, six concepts to find. One of `styles`
has every one of five classes in every one of four styles: 20 images, nine concepts. The recipe is that of mini-scenes,
changed by `--set`. Day and night are one factor, which a concept of either tells. A concept stands for what its weights
in the training images tell best, one to one. *AUC* is the area under the ROC curve with which its weight in as many new
images, by `ucd encode`, tells whether they show that; *seen* the share of its samples in which the reader of scenes
sees it. UNet rows are as in `tests.bench.discovery`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from concepts_cli.commands.encode import encode
from concepts_cli.commands.train import train
from concepts_cli.metrics.scores import match_one_to_one
from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.captions import CLASSES, VOCABULARY
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.mini.filters import STYLES
from concepts_cli.mini.workshop.measure import load_reader
from concepts_cli.mini.workshop.train_reader import read
from concepts_cli.output import Output, silence_libraries
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import concept_plan
from concepts_cli.recipe import load_recipe
from tests.bench.discovery import counted_rows

KINDS, NIGHT = ("scenes", "styles"), "night"
GOOD_AUC, GOOD_SEEN = 0.95, 0.8


@dataclass(frozen=True)
class Draw:
    """What was found in one set: of each factor the AUC on new images, and the share of samples that show it."""

    seed: int
    auc: dict[str, float]
    seen: dict[str, float]
    unet_rows: int
    seconds: float


def write_images(folder: Path, rng: np.random.Generator, kind: str, chosen: Sequence[str]) -> list[set[str]]:
    """Write an image of every combination of the chosen factors; returns what each shows, in the files' order."""
    folder.mkdir()
    shown = []
    if kind == "scenes":
        asked = [(pair, night, "") for pair in combinations(chosen, 2) for night in (False, True) for _ in range(2)]
    else:
        asked = [((label,), False, style) for label, style in product(chosen[:5], chosen[5:])]
    for n, i in enumerate(rng.permutation(len(asked))):
        labels, night, style = asked[i]
        labels = tuple(str(label) for label in rng.permutation(labels))
        scene = draw_scene(rng, labels=labels, night=night, style=style, held_out=True)
        Image.fromarray(scene.image).save(folder / f"{n:03d}.png")
        shown.append({*labels, style or (NIGHT if night else "day")})
    return shown


def run_draw(seed: int, kind: str, settings: Sequence[str] = (), *, samples: int = 0, device: str = "cpu") -> Draw:
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    chosen = [CLASSES[i] for i in rng.choice(len(CLASSES), size=4 if kind == "scenes" else 5, replace=False)]
    factors = [*chosen, NIGHT]
    if kind == "styles":
        chosen = factors = [*chosen, *(str(style) for style in rng.choice(sorted(STYLES), size=4, replace=False))]
    out = Output(mute=True)
    with tempfile.TemporaryDirectory() as place:
        images, new = Path(place) / "images", Path(place) / "new"
        shown, shown_new = (write_images(folder, rng, kind, chosen) for folder in (images, new))
        count = len(factors) + (kind == "scenes")
        own = [f"data.images={images}", f"concepts.count={count}", f"train.seed={seed}", "evaluate.labels=null"]
        recipe = load_recipe("mini-scenes", [*own, "evaluate.class_names=null", *settings])
        begun = time.perf_counter()
        with counted_rows() as rows:
            run = train(recipe, output=Path(place) / "run", device=device, out=out)
        seconds = time.perf_counter() - begun
        matches = match_one_to_one(areas(run.weights.numpy(), shown, factors))
        encoded = encode(run, [new], device=device, out=out)["images"]
        weights = np.array([list(image["weights"].values()) for image in encoded])
        found = areas(weights, shown_new, factors)
        seen = {}
        if samples:
            plan = concept_plan(run, replace(recipe.sample, num_images=samples), device=device)
            make_missing(plan, out=out)
            reader, limit = load_reader(WEIGHTS)
            for k, f in matches.items():
                files = sorted((run.path / "samples" / f"t{k + 1}").glob("*.png"))
                with torch.no_grad():
                    logits = read(reader, np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
                seen[factors[f]] = float((logits[:, VOCABULARY.index(factors[f])] >= limit).float().mean())
        auc = {factors[f]: float(found[k, f]) for k, f in matches.items()}
        return Draw(seed, auc, seen, sum(rows), seconds)


def areas(weights: np.ndarray, shown: Sequence[set[str]], factors: Sequence[str]) -> np.ndarray:
    """The area under the ROC curve of each concept's weight (N, K) for each of F factors: (K, F)."""
    from sklearn.metrics import roc_auc_score

    has = np.array([[factor in each for factor in factors] for each in shown])
    found = np.array([[roc_auc_score(has[:, f], column) for f in range(len(factors))] for column in weights.T])
    if NIGHT in factors:
        found[:, factors.index(NIGHT)] = np.abs(found[:, factors.index(NIGHT)] - 0.5) + 0.5
    return found


def summary(draws: Sequence[Draw]) -> dict[str, float]:
    """Means, and the shares that are good, of things or styles and apart from these of the time of day."""
    found = {}
    for name, chosen in (("", lambda factor: factor != NIGHT), (f"{NIGHT}_", lambda factor: factor == NIGHT)):
        for measure, good in (("auc", GOOD_AUC), ("seen", GOOD_SEEN)):
            values = [value for draw in draws for factor, value in getattr(draw, measure).items() if chosen(factor)]
            if values:
                found[name + measure] = statistics.fmean(values)
                found[f"{name}{measure}_{good:g}"] = statistics.fmean(value >= good for value in values)
    return found | {name: statistics.fmean(getattr(draw, name) for draw in draws) for name in ("unet_rows", "seconds")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shared", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="scenes")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=0, help="of each concept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args(arguments)
    silence_libraries()
    draws = []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.draws):
        draws.append(run_draw(seed, chosen.kind, chosen.set, samples=chosen.samples, device=chosen.device))
        print(json.dumps(asdict(draws[-1])), file=sys.stderr, flush=True)
    print(json.dumps(summary(draws)))


if __name__ == "__main__":
    main()
