"""How the pipeline deals with real photographs, judged by a real classifier and by exact masks.

    python -m tests.bench.photographs [--folder UNPACKED] [--model MODEL] [--set KEY=VALUE] …

Animals cut out are pasted onto photographs of other things, so what is in a picture, and where, is known exactly. The
tables say: whether files are read as they are meant; what ImageNet's classifier makes of them through `ucd evaluate`;
which animals `ucd train` tells apart without labels, beside k-means on the classifier's features; what the weights of
`ucd encode` say about new pictures; and whether heat maps lie on the animals.

The photographs are fetched when this runs, and nothing of them is kept. The built-in model has never seen one: it knows
these animals as drawings only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from concepts_cli.commands.evaluate import measure
from concepts_cli.commands.train import train
from concepts_cli.core.encoding import encode_records
from concepts_cli.core.heat_maps import encoded, score_gains, shares
from concepts_cli.data.images import open_image, to_pixels
from concepts_cli.data.records import read_images
from concepts_cli.metrics.assignment import assign
from concepts_cli.metrics.classification import classify
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output, silence_libraries
from concepts_cli.recipe import Recipe, choose_recipe
from concepts_cli.runs.run import Run
from tests.bench.outside_judge import ARCHITECTURE, load_outside_judge, outside_features
from tests.bench.photo_composites import CLASSES, Composite, composites, write
from tests.bench.photo_sources import fetch, photographs
from tests.bench.tables import print_table

TRAINED, NEW = 5, 8  # pictures of each class: to train on, and to encode, classify and map
ORIENTATIONS = {3: 180, 6: 270, 8: 90}  # EXIF: how far a viewer turns the stored picture, in degrees to the left
QUIET = Output(mute=True)


def reading(folder: Path) -> None:
    """Files come back upright and in their own colours, whatever their EXIF and their mode."""
    pictures = photographs(folder)
    sizes = [picture.image.size for picture in pictures]
    rows, place = [], folder / "odd.jpg"
    for orientation, degrees in ORIENTATIONS.items():
        differences = []
        for picture in pictures:
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.image.rotate(-degrees, expand=True).save(place, exif=exif, quality=95)
            (record,) = read_images([place])
            read = open_image(place)
            assert (record.width, record.height) == read.size == picture.image.size
            differences.append(_difference(read, picture.image))
        rows.append((f"EXIF orientation {orientation}", f"{max(differences):.1f}"))
    modes = {"grey, read as RGB": "L", "CMYK": "CMYK"}
    for what, mode in modes.items():
        differences = []
        for picture in pictures:
            converted = picture.image.convert(mode)
            converted.save(place, quality=95)
            differences.append(_difference(open_image(place), converted.convert("RGB")))
        rows.append((what, f"{max(differences):.1f}"))
    widths, heights = zip(*sizes, strict=True)
    span = f"{min(widths)} to {max(widths)} x {min(heights)} to {max(heights)} px"
    print_table(f"Reading: {len(pictures)} photographs, {span}", ("stored as", "worst mean difference of 255"), rows)


def _difference(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(other, float)).mean())


@contextmanager
def real_classifier() -> Iterator[str]:
    """`ucd evaluate --metric resnet` uses the classifier with ImageNet's weights, which need no download here."""
    name, judge = f"{ARCHITECTURE}.in1k", load_outside_judge()
    from concepts_cli.scorers.resnet import load_resnet

    with (
        patch("timm.create_model", lambda *_, **__: judge),
        patch("concepts_cli.metrics.inputs.load_built_in_resnet", lambda device: load_resnet(name, device)),
        patch("concepts_cli.metrics.inputs.load_resnet", lambda _, device: load_resnet(name, device)),
    ):
        yield name


def judged(run: Run, pictures: Sequence[Composite], folder: Path) -> None:
    """The run's samples, and the photographs in place of samples, which is the most that a model could reach."""
    names, samples = list(CLASSES), folder / "as-samples"
    for token, name in zip(run.tokens, names, strict=True):
        write([each for each in pictures if each.label == name], samples / token.strip("<>"))
    rows = []
    with real_classifier() as classifier:
        for what, place in (("photographs as samples", samples), ("the model's samples", None)):
            for threshold in (None, 6.0):
                found = measure(
                    run, metrics=["resnet"], class_names=names, threshold=threshold, samples=place, out=QUIET
                )["metrics"]["resnet"]
                figures = [f"{100 * found[key]:.0f}%" for key in ("accuracy", "matched_accuracy")]
                rows.append((what, f"{found['threshold']:g}", *figures, f"{found['kl']:.2f}"))
    head = ("what", "threshold", "accuracy", "matched", "KL")
    print_table(f"`ucd evaluate --metric resnet` by {classifier}", head, rows)


def told_apart(run: Run, pictures: Sequence[Composite], paths: Sequence[Path], seconds: float) -> None:
    """Which of the pictures that it was trained on go together, without labels."""
    by_path = {str(path.resolve()): picture.label for path, picture in zip(paths, pictures, strict=True)}
    labels = [[by_path[str(Path(image.path).resolve())]] for image in run.images]
    ours = assign(run.weights.numpy(), labels)
    sorted_paths = [Path(image.path) for image in run.images]
    plain = [label for (label,) in labels]
    features = {ARCHITECTURE: outside_features(sorted_paths), "pixels": _pixels(sorted_paths)}
    rows = [(f"`ucd train`, {run.recipe.model}", f"{100 * ours.matched_accuracy:.0f}%", f"{seconds:.0f} s")]
    rows += [
        (f"k-means on {what}", f"{100 * classify(each, plain).kmeans.mean():.0f}%", "")
        for what, each in features.items()
    ]
    print_table(f"{len(paths)} unlabelled pictures of {len(CLASSES)} animals", ("by", "matched", "time"), rows)


def new_pictures(run: Run, pictures: Sequence[Composite], paths: Sequence[Path]) -> np.ndarray:
    """Classifiers on the weights that `ucd encode` finds, which are returned, beside other features of the pictures."""
    model, labels = run.load_model(None), [picture.label for picture in pictures]
    results = list(encode_records(model, read_images(paths), recipe=run.recipe, tokens=run.tokens))
    features = {
        "concept weights": np.array([result.weights for result in results]),
        ARCHITECTURE: outside_features(paths),
        "pixels": _pixels(paths),
    }
    rows = []
    for what, each in features.items():
        found = classify(each, labels)
        rows.append(
            (what, str(each.shape[1]), f"{100 * found.kmeans.mean():.0f}%", f"{100 * found.logistic.mean():.0f}%")
        )
    fits = [result.fit for result in results]
    title = f"{len(paths)} new pictures; the concepts explain {100 * np.median(fits):.1f}% of the loss (median)"
    print_table(title, ("features", "size", "k-means", "logistic regression"), rows)
    return features["concept weights"]


@torch.no_grad()
def maps(run: Run, pictures: Sequence[Composite], weights: np.ndarray) -> None:
    """How much of a heat map lies on the animal, and whether its highest place does.

    Maps are of the picture's strongest concept, among all concepts, and of the animal's name, among all names.
    """
    model, names = run.load_model(None), list(CLASSES)
    run.teach(model)
    subjects = {
        "its strongest concept": (
            [run.recipe.concepts.prompt_of(token) for token in run.tokens],
            weights.argmax(axis=1),
        ),
        "its name": ([f"a photo of a {name}" for name in names], [names.index(each.label) for each in pictures]),
    }
    rows = []
    for what, (prompts, which) in subjects.items():
        found = np.array([_on_the_animal(model, each, prompts, n) for each, n in zip(pictures, which, strict=True)])
        rows.append((what, *(f"{100 * share:.0f}%" for share in found.mean(axis=0))))
    head = ("map of", "of the map on the animal", "highest place on it", "by chance")
    print_table(f"Heat maps against exact masks, {len(pictures)} pictures", head, rows)


def _on_the_animal(model: DiffusionModel, picture: Composite, prompts: Sequence[str], which: int) -> tuple[float, ...]:
    """The share of a map on the animal, whether its highest place is on it, and the animal's share of the picture."""
    pixels = to_pixels(picture.image, model.resolution)[None]
    found = shares(score_gains(model, encoded(model, pixels), prompts)).cpu()[0, which].numpy()
    mask = np.asarray(picture.mask.resize(found.shape[::-1], Image.Resampling.BOX), float) / 255
    heat = found - found.min()
    return float((heat * mask).sum() / heat.sum()), float(mask.flat[heat.argmax()] > 0.5), float(mask.mean())


def _pixels(paths: Sequence[Path]) -> np.ndarray:
    return np.stack([to_pixels(open_image(path), 32).flatten().numpy() for path in paths])


def recipe_for(folder: Path, options: argparse.Namespace) -> Recipe:
    own = [f"model={options.model}", f"concepts.count={len(CLASSES)}", "evaluate.labels=null", "sample.num_images=8"]
    return choose_recipe(folder, [*own, *options.set])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.photographs", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the packages are unpacked already")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    silence_libraries()
    with tempfile.TemporaryDirectory() as place:
        source, work = options.folder or Path(place, "packages"), Path(place)
        if not options.folder:
            fetch(source)
        reading(source)
        pictures = composites(source, TRAINED + NEW)
        known = [picture for picture in pictures if picture.number < TRAINED]
        unknown = [picture for picture in pictures if picture.number >= TRAINED]
        paths, new_paths = write(known, work / "train"), write(unknown, work / "new")
        begun = time.perf_counter()
        run = train(recipe_for(work / "train", options), output=work / "run", out=QUIET)
        told_apart(run, known, paths, time.perf_counter() - begun)
        weights = new_pictures(run, unknown, new_paths)
        maps(run, unknown, weights)
        judged(run, unknown, work)


if __name__ == "__main__":
    main()
