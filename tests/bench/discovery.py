"""Discovery on sets that nobody tuned for: random classes of the built-in world, five new scenes of each.

    python -m tests.bench.discovery --draws 8 --first-seed 1                      # to choose settings: seeds below 1000
    python -m tests.bench.discovery --draws 20 --first-seed 1000                  # for figures, once, after the choice
    python -m tests.bench.discovery --draws 4 --first-seed 1000 --random-start   # 240 steps from there

A draw's seed chooses the classes, the scenes (on backgrounds that the model never saw) and the training's own seed. The
recipe is the quickstart's, changed by `--set`. UNet rows are images in calls of the network: 1 forward, 2 with
gradient.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from concepts_cli.commands.train import train
from concepts_cli.metrics.assignment import assign
from concepts_cli.mini.captions import CLASSES
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output, silence_libraries
from concepts_cli.recipe import load_recipe

EACH = 5  # scenes of a class
RANDOM_START = (  # the quickstart's settings before it started from the images
    *("concepts.start=table", "concepts.initial_spread=3", "train.max_steps=240", "train.revive_every=20"),
    *("train.learning_rate=5e-3", "train.weights_learning_rate=0.2"),
)
SHARES = ("images_matched", "ari")


@dataclass(frozen=True)
class Draw:
    """The result of one set: shares of 1, and what it cost."""

    seed: int
    classes: tuple[str, ...]
    images_matched: float
    ari: float
    unet_rows: int
    seconds: float


def write_scenes(folder: Path, seed: int, count: int) -> dict[str, str]:
    """Write the scenes of a draw to `folder`; returns the class of each file."""
    rng = np.random.default_rng((seed, count))
    chosen = [CLASSES[i] for i in rng.choice(len(CLASSES), size=count, replace=False)]
    scenes = [
        (draw_scene(rng, labels=(c,), night=False, style="", held_out=True), c) for c in chosen for _ in range(EACH)
    ]
    classes = {}
    for n, i in enumerate(rng.permutation(len(scenes))):
        Image.fromarray(scenes[i][0].image).save(folder / f"{n:03d}.png")
        classes[f"{n:03d}.png"] = scenes[i][1]
    return classes


@contextmanager
def counted_rows() -> Iterator[list[int]]:
    """A list whose sum is the number of UNet rows in this block."""
    rows, predict = [], StableDiffusion.predict

    def counting(self: StableDiffusion, latents: torch.Tensor, *rest: object) -> torch.Tensor:
        rows.append(len(latents) * (2 if torch.is_grad_enabled() else 1))
        return predict(self, latents, *rest)

    with patch.object(StableDiffusion, "predict", counting):
        yield rows


def run_draw(seed: int, count: int, settings: Sequence[str]) -> Draw:
    with tempfile.TemporaryDirectory() as place, counted_rows() as rows:
        images = Path(place) / "images"
        images.mkdir()
        classes = write_scenes(images, seed, count)
        own = [f"data.images={images}", f"concepts.count={count}", f"train.seed={seed}", "evaluate.labels=null"]
        unlabelled = ["evaluate.class_names=null", "evaluate.held_out=null", "evaluate.held_out_labels=null"]
        recipe = load_recipe("quickstart", [*own, *unlabelled, *settings])
        begun = time.perf_counter()
        run = train(recipe, output=Path(place) / "run", device="cpu", out=Output(quiet=True))
        seconds = time.perf_counter() - begun
        labels = [classes[Path(image.path).name] for image in run.images]
        result = assign(run.weights.numpy(), [[label] for label in labels])
        return Draw(seed, result.classes, result.matched_accuracy, result.ari, sum(rows), seconds)


def summary(draws: Sequence[Draw]) -> dict[str, dict[str, float]]:
    """The mean, the worst and the share at 90% or more of each share; the mean of what a draw costs."""
    found: dict[str, dict[str, float]] = {}
    for name in SHARES:
        values = [getattr(draw, name) for draw in draws]
        share = sum(value >= 0.9 for value in values) / len(values)
        found[name] = {"mean": statistics.fmean(values), "worst": min(values), "share_90": share}
    for name in ("unet_rows", "seconds"):
        found[name] = {"mean": statistics.fmean(getattr(draw, name) for draw in draws)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.discovery", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5, help="classes and concepts")
    parser.add_argument("--random-start", action="store_true", help="as it was before words started from the images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    silence_libraries()
    draws = []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.draws):
        draws.append(run_draw(seed, chosen.count, [*(RANDOM_START if chosen.random_start else ()), *chosen.set]))
        line = asdict(draws[-1]) | {"classes": ", ".join(draws[-1].classes)}
        print(" ".join(f"{key}={value}" for key, value in line.items()), file=sys.stderr, flush=True)
    found = summary(draws)
    if chosen.json:
        print(json.dumps({"draws": [asdict(draw) for draw in draws], **found}))
        return
    print("| | mean | worst | draws at 90% or more |\n|---|---|---|---|")
    for name in SHARES:
        cells = " | ".join(f"{100 * found[name][key]:.1f}" for key in ("mean", "worst", "share_90"))
        print(f"| {name.replace('_', ' ')} % | {cells} |")
    print(f"| UNet rows | {found['unet_rows']['mean']:,.0f} | | |\n| seconds | {found['seconds']['mean']:.0f} | | |")


if __name__ == "__main__":
    main()
