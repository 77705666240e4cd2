"""The README's table of results: every recipe by every method with every seed, trained, sampled and evaluated.

    python -m tests.bench.results --output runs/results
    python -m tests.bench.results --recipe quickstart --method composed --seed 0 --seed 1 --num-images 16
    python -m tests.bench.results --method as-published --max-steps 240      # `preset: paper`

Prints Markdown. A run lies in OUTPUT/RECIPE/METHOD/seed-N; what is finished there is not done again, what was
interrupted goes on, so the same command may be given until it is through.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from concepts_cli.commands.evaluate import evaluate
from concepts_cli.commands.train import train
from concepts_cli.output import Output, silence_libraries
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import concept_plan
from concepts_cli.recipe import Recipe, load_recipe
from concepts_cli.runs.run import Run
from tests.bench.methods import METHODS, looking, settings_of

RECIPES = ("quickstart", "mini-s2", "mini-s3", "mini-s4")
AS_PUBLISHED = "as-published"  # composed, with nothing of the recipe but its images and classes
SEEDS = (0, 1, 2)
METRICS = ("assignment", "resnet")


@dataclass(frozen=True)
class Result:
    """What one run is worth: shares of 1, and nats."""

    recipe: str
    method: str
    seed: int
    images_matched: float  # of the images' strongest concepts, one to one with classes
    samples_matched: float  # of what the ResNet sees in the samples
    accuracy: float  # the paper's, by the ResNet
    kl: float  # the paper's, by the ResNet

    def __str__(self) -> str:
        return (
            f"{self.recipe} {self.method} seed {self.seed}: images matched {self.images_matched:.1%}, "
            f"samples matched {self.samples_matched:.1%}, ResNet {self.accuracy:.1%} / {self.kl:.4f}"
        )


def result(
    folder: Path,
    recipe: str,
    method: str,
    seed: int,
    *,
    num_images: int,
    max_steps: int | None = None,
    device: str | None = None,
) -> Result:
    """The figures of the run in `folder`, which is trained, sampled and evaluated as far as that was not done yet."""
    out = Output(mute=True)
    run = Run(folder)
    if not run.is_finished():
        with looking(method):
            settings = {"train.seed": seed, "sample.num_images": num_images}
            settings |= {"train.max_steps": max_steps} if max_steps else {}
            chosen = recipe_for(recipe, method, settings)
            run = train(chosen, output=folder, resume=True, device=device, out=out)
    metrics = _evaluated(run)
    if metrics.get("resnet", {}).get("images", 0) < num_images * len(run.tokens) or "assignment" not in metrics:
        plan = concept_plan(run, replace(run.recipe.sample, num_images=num_images), device=device)
        make_missing(plan, out=out)
        metrics = evaluate(run, metrics=METRICS, device=device, out=out)["metrics"]
    images, samples = metrics["assignment"], metrics["resnet"]
    matched = images["matched_accuracy"], samples["matched_accuracy"]
    kl = float("inf") if samples["kl"] is None else samples["kl"]
    return Result(recipe, method, seed, *matched, samples["accuracy"], kl)


def recipe_for(recipe: str, method: str, settings: dict[str, object]) -> Recipe:
    """The recipe with this method, or what `preset: paper` makes of its images and classes."""
    if method != AS_PUBLISHED:
        return load_recipe(recipe, [*settings_of(method), *(f"{key}={value}" for key, value in settings.items())])
    own = load_recipe(recipe, settings)
    given = replace(load_recipe("imagenet", {"data.images": own.data.images} | settings), name=own.name)
    data = replace(given.data, images_per_folder=None)
    given = replace(given, model=own.model, data=data, evaluate=own.evaluate)
    return replace(given, concepts=replace(given.concepts, count=own.concepts.count))


def markdown(results: Sequence[Result]) -> str:
    """A row a measure and method, a column a recipe, mean and standard deviation over the seeds."""
    recipes, methods = (list(dict.fromkeys(getattr(one, name) for one in results)) for name in ("recipe", "method"))
    columns = [*recipes, "average"] if len(recipes) > 1 else recipes
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    measures = {"images matched %": _images, "samples matched %": _samples, "ResNet accuracy % / KL": _paper}
    for measure, cell in measures.items():
        for method in methods:
            of_method = [one for one in results if one.method == method]
            groups = [[one for one in of_method if one.recipe == recipe] for recipe in recipes]
            groups += [of_method] if len(recipes) > 1 else []
            lines.append(f"| {measure}, {method} | " + " | ".join(cell(group) for group in groups) + " |")
    return "\n".join(lines)


def _images(results: Sequence[Result]) -> str:
    return _spread([one.images_matched for one in results])


def _samples(results: Sequence[Result]) -> str:
    return _spread([one.samples_matched for one in results])


def _paper(results: Sequence[Result]) -> str:
    kl = statistics.fmean(one.kl for one in results)
    return f"{_spread([one.accuracy for one in results])} / {f'{kl:.4f}'.removeprefix('0')}"


def _spread(shares: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(shares):.1f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else mean


def _evaluated(run: Run) -> dict:
    try:
        return json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.results", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", action="append", help=f"default: {' '.join(RECIPES)}")
    parser.add_argument("--method", action="append", help=f"default: {' '.join(METHODS)}; or {AS_PUBLISHED}")
    parser.add_argument("--seed", action="append", type=int, help=f"default: {' '.join(map(str, SEEDS))}")
    parser.add_argument("--num-images", type=int, default=16, help="samples a concept")
    parser.add_argument("--max-steps", type=int, help="default: the recipe's")
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    parser.add_argument("--device")
    chosen = parser.parse_args(arguments)
    silence_libraries()
    results = []
    for seed in chosen.seed or SEEDS:  # seeds outermost: a table of all methods is there after the first
        for recipe in chosen.recipe or RECIPES:
            for method in chosen.method or METHODS:
                folder = chosen.output / Path(recipe).stem / method / f"seed-{seed}"
                how = {"num_images": chosen.num_images, "max_steps": chosen.max_steps, "device": chosen.device}
                one = result(folder, recipe, method, seed, **how)
                print(one, file=sys.stderr, flush=True)
                results.append(one)
    print(markdown(results))


if __name__ == "__main__":
    main()
