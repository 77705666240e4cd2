"""Discovery on sets that nobody tuned for: random classes of the built-in world, five new scenes of each.

    python -m tests.bench.discovery --draws 8 --first-seed 1         # to choose settings: seeds below 1000
    python -m tests.bench.discovery --draws 20 --first-seed 2000     # for figures, once, after the choice
    python -m tests.bench.discovery --draws 20 --first-seed 2000 --method composed --method ti-outside-kmeans

A draw's seed chooses the classes, the scenes (on backgrounds that the model never saw) and the training's own seed. The
recipe is the quickstart's, changed by `--set`. With `--count auto` a draw has 3 to 10 classes, and the method is to say
how many. With `--pairs` every scene has two objects of the classes. With `--samples N` each concept is sampled N times,
and the reader of scenes says what is seen. UNet rows are images in calls of the network while training: 1 forward, 2
with gradient.
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
from dataclasses import asdict, dataclass, replace
from itertools import combinations, cycle, islice, product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import one_hot

from concepts_cli.commands.evaluate import evaluate
from concepts_cli.commands.train import train
from concepts_cli.metrics.assignment import assign
from concepts_cli.mini.captions import CLASSES
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output, silence_libraries
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import concept_plan
from concepts_cli.recipe import load_recipe
from concepts_cli.training.clustering import cluster
from concepts_cli.training.setup import read_training_images
from tests.bench.methods import CLUSTERINGS, COMPOSED, METHODS, RANDOM_START, looking, settings_of

EACH = 5  # scenes of a class
AUTO = "auto"
SHARES = ("images_matched", "ari", "samples_matched", "number_right", "number_close")
COSTS = ("unet_rows", "seconds")


@dataclass(frozen=True)
class Draw:
    """The result of one method on one set: shares of 1, and what training cost. None: the method has no such measure,
    or it was not asked for.
    """

    seed: int
    method: str
    classes: tuple[str, ...]
    images_matched: float | None  # of the images' strongest concepts, one to one with classes
    ari: float | None
    samples_matched: float | None  # of what the reader sees in the samples
    number_right: float | None  # 1 if as many concepts were found as there are classes
    number_close: float | None  # 1 if one more or less was found at most
    unet_rows: int
    seconds: float


def write_scenes(folder: Path, seed: int, count: int, *, pairs: bool = False) -> dict[str, list[str]]:
    """Write the scenes of a draw to `folder`; returns the classes in each file."""
    rng = np.random.default_rng((seed, count))
    chosen = [CLASSES[i] for i in rng.choice(len(CLASSES), size=count, replace=False)]
    groups = [(one,) for one in chosen for _ in range(EACH)]
    if pairs:
        groups = list(islice(cycle(combinations(chosen, 2)), count * EACH))
    scenes = [draw_scene(rng, labels=group, night=False, style="", held_out=True) for group in groups]
    classes = {}
    for n, i in enumerate(rng.permutation(len(scenes))):
        Image.fromarray(scenes[i].image).save(folder / f"{n:03d}.png")
        classes[f"{n:03d}.png"] = list(groups[i])
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


def run_draw(
    seed: int,
    count: int | str,
    settings: Sequence[str] = (),
    *,
    method: str = COMPOSED,
    pairs: bool = False,
    samples: int = 0,
    device: str = "cpu",
) -> Draw:
    out = Output(mute=True)
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "images"
        images.mkdir()
        classes = write_scenes(images, seed, 3 + seed % 8 if count == AUTO else int(count), pairs=pairs)
        own = [f"data.images={images}", f"concepts.count={count}", f"train.seed={seed}", "evaluate.labels=null"]
        different = sorted({name for each in classes.values() for name in each})
        unlabelled = ["evaluate.held_out=null", "evaluate.held_out_labels=null"]
        unlabelled.append(f"evaluate.class_names=[{', '.join(different)}]")
        recipe = load_recipe("quickstart", [*own, *unlabelled, *settings_of(method), *settings])
        begun = time.perf_counter()
        with counted_rows() as rows, looking(method):
            if method in CLUSTERINGS:
                records = read_training_images(recipe)
                owners = one_hot(cluster(recipe, records, torch.device(device)), recipe.concepts.most())
                labels = [classes[Path(record.path).name] for record in records]
                result = assign(owners.numpy(), labels)
                clustered = (result.matched_accuracy, result.ari, None, None, None)
                return Draw(seed, method, result.classes, *clustered, 0, time.perf_counter() - begun)
            run = train(recipe, output=Path(place) / "run", device=device, out=out)
        seconds = time.perf_counter() - begun
        labels = [classes[Path(image.path).name] for image in run.images]
        result, sorts = assign(run.weights.numpy(), labels), bool((run.weights != run.weights[0, 0]).any())
        seen = None
        if samples:
            plan = concept_plan(run, replace(recipe.sample, num_images=samples), device=device)
            make_missing(plan, out=out)
            seen = evaluate(run, metrics=["resnet"], device=device, out=out)["metrics"]["resnet"]["matched_accuracy"]
        matched = (result.matched_accuracy, result.ari) if sorts else (None, None)
        off = abs(len(run.tokens) - len(different))
        told = (float(off == 0), float(off <= 1)) if count == AUTO else (None, None)
        return Draw(seed, method, result.classes, *matched, seen, *told, sum(rows), seconds)


def summary(draws: Sequence[Draw]) -> dict[str, dict[str, float]]:
    """The mean, the worst and the share at 90% or more of each share; the mean of what a draw costs."""
    found: dict[str, dict[str, float]] = {}
    for name in SHARES:
        values = [value for draw in draws if (value := getattr(draw, name)) is not None]
        if values:
            share = sum(value >= 0.9 for value in values) / len(values)
            found[name] = {"mean": statistics.fmean(values), "worst": min(values), "share_90": share}
    for name in COSTS:
        found[name] = {"mean": statistics.fmean(getattr(draw, name) for draw in draws)}
    return found


def markdown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row a method: mean / worst / draws at 90% or more of each share, and costs."""
    names = [name for name in SHARES if any(name in measures for measures in found.values())]
    lines = ["| | " + " | ".join(f"{name.replace('_', ' ')} %" for name in names) + " | UNet rows | seconds |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for method, measures in found.items():
        cells = [
            " / ".join(f"{100 * measures[name][key]:.1f}" for key in ("mean", "worst", "share_90"))
            if name in measures
            else ""
            for name in names
        ]
        costs = [f"{measures[name]['mean']:,.0f}" for name in COSTS]
        lines.append(f"| {method} | " + " | ".join([*cells, *costs]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.discovery", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--count", default="5", help="classes and concepts; auto: 3 to 10 classes, to be counted")
    parser.add_argument(
        "--method", action="append", help=f"default: composed; {', '.join((RANDOM_START, *METHODS, *CLUSTERINGS))}"
    )
    parser.add_argument("--pairs", action="store_true", help="two objects in every scene")
    parser.add_argument("--samples", type=int, default=0, help="of each concept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="mean, worst and share_90 by method and measure")
    chosen = parser.parse_args(arguments)
    silence_libraries()
    draws = []
    methods = chosen.method or [COMPOSED]
    for seed, method in product(range(chosen.first_seed, chosen.first_seed + chosen.draws), methods):
        draws.append(
            run_draw(
                seed,
                chosen.count,
                chosen.set,
                method=method,
                pairs=chosen.pairs,
                samples=chosen.samples,
                device=chosen.device,
            )
        )
        line = asdict(draws[-1]) | {"classes": ", ".join(draws[-1].classes)}
        print(" ".join(f"{key}={value}" for key, value in line.items()), file=sys.stderr, flush=True)
    found = {method: summary([draw for draw in draws if draw.method == method]) for method in methods}
    print(json.dumps({"draws": [asdict(draw) for draw in draws], **found}) if chosen.json else markdown(found))


if __name__ == "__main__":
    main()
