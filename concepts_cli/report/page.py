"""What stands on the page of a run, read from its folder; `page.html` says where."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from concepts_cli import __version__
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.metrics.labels import read_labels
from concepts_cli.metrics.tables import MEASURES, SHARES, figure, interval
from concepts_cli.pictures import png_text
from concepts_cli.recipe import dump_recipe
from concepts_cli.report.chart import loss_chart, read_losses
from concepts_cli.report.inline import Gallery
from concepts_cli.run_dir import Run, bare_name

TRAINING_IMAGES = 300  # on the page at most, in the order of the run
SAMPLES, STRONGEST, HEAT_MAPS, OTHERS = 8, 6, 3, 24
SIDE = 256  # of pictures on the page, px
THUMBNAIL = 128


@dataclass(frozen=True)
class Shown:
    """A picture on the page: its class (None when the file is gone), and what it is."""

    picture: str | None
    title: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A number and how strong its colour is, 0 to 100."""

    text: str
    strength: int
    value: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A measure as text and, for a share, as a bar with its interval, in percent."""

    title: str
    text: str
    span: str
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Named:
    """A guess at what a concept is, what is wrong with it, and words with their similarities."""

    guess: str
    wrong: list[str]
    seen: list[tuple[str, str]]
    neighbours: list[tuple[str, str]]


@dataclass
class Page:
    """A run as the template wants it."""

    run: Run
    gallery: Gallery = field(default_factory=Gallery)

    def render(self) -> str:
        """The page: one HTML document that needs no other file."""
        folder = Path(__file__).parent
        environment = Environment(
            loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        script = (folder / "page.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        body = environment.get_template("body.html").render(page=self)  # first: it fills the gallery
        return environment.get_template("page.html").render(
            page=self,
            body=body,
            script=script,
            script_digest=digest,
            style=(folder / "page.css").read_text(encoding="utf-8"),
            version=__version__,
        )

    # ---- the run

    @property
    def recipe(self):
        return self.run.recipe

    @cached_property
    def recipe_text(self) -> str:
        return dump_recipe(self.recipe)

    @cached_property
    def names(self) -> list[str]:
        return [bare_name(token) for token in self.run.tokens]

    @cached_property
    def hues(self) -> list[int]:
        """A hue a concept: even steps round the circle, for many the golden angle."""
        count = len(self.names)
        return [round(28 + k * (360 / count if count <= 8 else 137.508)) % 360 for k in range(count)]

    @cached_property
    def weights(self) -> np.ndarray:
        return self.run.weights.float().numpy()

    @cached_property
    def losses(self) -> list[tuple[int, float]]:
        return read_losses(self.run.path / "metrics.jsonl")

    @cached_property
    def chart(self):
        return loss_chart(self.losses)

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """The run in figures."""
        found = [("images", str(len(self.run.images))), ("concepts", str(len(self.names)))]
        if self.losses:
            found.append(("steps", f"{self.losses[-1][0]:,}"))
        if matched := self.metrics.get("assignment", {}).get("matched_accuracy"):
            found.append(("images matched", f"{100 * matched:.0f}%"))
        if accuracy := self.metrics.get("resnet", self.metrics.get("clip", {})).get("accuracy"):
            found.append(("sample accuracy", f"{100 * accuracy:.0f}%"))
        features = self.metrics.get("classification", {}).get("features", {})
        if features:
            found.append(("held-out, k-means", f"{100 * features['weights']['kmeans']:.0f}%"))
        return found

    @cached_property
    def settings(self) -> list[tuple[str, str]]:
        """What was asked, in short."""
        recipe = self.recipe
        weights, train = recipe.weights, recipe.train
        places = ", ".join("/".join(Path(place).parts[-2:]) for place in recipe.data.images[:4])
        more = len(recipe.data.images) - 4
        return [
            ("model", recipe.model),
            ("images", places + (f" and {more} more" if more > 0 else "")),
            ("concepts", f"{recipe.concepts.count}, as {recipe.concepts.property or 'bare words'}"),
            ("weights", "softmax, of sum one" if weights.constraint == "softmax" else "unconstrained"),
            ("batch", f"{train.batch_size} x {train.gradient_accumulation}"),
            ("learning rate", f"{train.learning_rate:g}"),
            ("seed", str(train.seed)),
        ]

    def command(self, verb: str, *arguments: str) -> str:
        return shlex.join(["ucd", verb, *arguments, "--run", str(self.run.path)])

    @cached_property
    def commands(self) -> list[tuple[str, str, bool]]:
        """Every command of the page: what for, the command, and whether it was run."""
        measured = [part for metric in self.metrics for part in ("--metric", metric)]
        path = str(self.run.path)
        again = shlex.join(["ucd", "train", f"{path}/recipe.yaml", "--output", f"{path}-again"])
        found = [("discover, from the same settings", again, True)]
        found.append(("sample", self.sample_command, any(self._files("samples").values())))
        found.append(("draw heat maps", self.command("visualize", "--concept", "all"), bool(self.heat_maps)))
        found.append(("measure", self.command("evaluate", *(measured or ("--metric", "all"))), bool(measured)))
        found += [(f"compose {one.title}", one.note, True) for one, _ in self.compositions]
        found.append(("make this page", self.command("report"), True))
        return found

    @cached_property
    def sample_command(self) -> str:
        """The command that makes the samples that are there, as their metadata has it."""
        files = self._files("samples").get(self.names[0], [])
        options = ["--concept", "all"]
        if files:
            said, asked = png_text(files[0]), self.recipe.sample
            options += ["--num-images", str(len(files))] if len(files) != asked.num_images else []
            for key, flag in (
                ("steps", "--steps"),
                ("guidance_scale", "--guidance-scale"),
                ("scheduler", "--scheduler"),
            ):
                value = said.get(key)
                if value and value != (f"{getattr(asked, key):g}" if key != "scheduler" else asked.scheduler):
                    options += [flag, value]
            if (seed := said.get("seed")) and seed != str(asked.seed):
                options += ["--seed", seed]
        return self.command("sample", *options)

    # ---- pictures

    @cached_property
    def shown_images(self) -> int:
        return min(len(self.run.images), TRAINING_IMAGES)

    @cached_property
    def images(self) -> list[Shown]:
        """The training images, with their hidden classes where the recipe has some."""
        records = self.run.images[:TRAINING_IMAGES]
        labels = self.labels or [""] * len(records)
        return [
            Shown(self.gallery.add(Path(record.path), THUMBNAIL), Path(record.path).name, label)
            for record, label in zip(records, labels, strict=False)
        ]

    @cached_property
    def labels(self) -> list[str] | None:
        if not self.recipe.evaluate.labels:
            return None
        try:
            found = read_labels(self.recipe.evaluate.labels, [record.path for record in self.run.images])
        except UcdError:
            return None
        return [", ".join(classes) for classes in found]

    @cached_property
    def concepts(self) -> list[dict[str, Any]]:
        """A card each."""
        samples = self._files("samples")
        owners = self.weights.argmax(axis=1)
        found = []
        for k, (token, name) in enumerate(zip(self.run.tokens, self.names, strict=True)):
            strongest = (-self.weights[:, k]).argsort(kind="stable")[:STRONGEST]
            naming = self.metrics.get("naming", {}).get("concepts", {}).get(name)
            prompt = default_prompt(self.recipe.concepts.property, token)
            found.append(
                {
                    "name": name,
                    "hue": self.hues[k],
                    "prompt": prompt,
                    "owned": int((owners == k).sum()),
                    "named": _named(naming) if naming else None,
                    "samples": [self._shown(path) for path in samples.get(name, [])[:SAMPLES]],
                    "strongest": [self._strong(int(i), k) for i in strongest],
                    "heat_maps": [self._shown(path, 2 * SIDE) for path in self.heat_maps.get(name, [])[:HEAT_MAPS]],
                    "sample_command": self.command("sample", "--concept", name),
                    "heat_command": self.command("visualize", "--concept", name),
                }
            )
        return found

    def _strong(self, image: int, concept: int) -> Shown:
        record = self.run.images[image]
        picture = self.gallery.add(Path(record.path), THUMBNAIL)
        return Shown(picture, Path(record.path).name, f"{self.weights[image, concept]:.2f}")

    @cached_property
    def heat_maps(self) -> dict[str, list[Path]]:
        """Heat maps by the concept that their folder is named after (pictures of it), or their file (real images)."""
        found: dict[str, list[Path]] = defaultdict(list)
        for folder, paths in self._files("heatmaps").items():
            for path in paths:
                if not path.stem.endswith("-mask"):
                    found[path.stem if path.stem in self.names else folder].append(path)
        return dict(found)

    @cached_property
    def other_heat_maps(self) -> list[Shown]:
        """Those of no single concept: of prompts and compositions."""
        others = [path for name, paths in self.heat_maps.items() if name not in self.names for path in paths]
        return [self._shown(path, 2 * SIDE) for path in others[:OTHERS]]

    @cached_property
    def compositions(self) -> list[tuple[Shown, list[Shown]]]:
        """What was composed, with the command for it, and its pictures."""
        found = []
        for name, paths in self._files("compositions").items():
            prompt = png_text(paths[0]).get("prompt", name)
            terms = re.findall(r"(-?[\d.]+) \* '(.*?)'(?= \+ -?[\d.]+ \* '|$)", prompt)
            arguments = [f"{self._term(text)}={weight}" for weight, text in terms]
            command = self.command("compose", *arguments, "--num-images", str(len(paths))) if arguments else ""
            found.append((Shown(None, name, command), [self._shown(path) for path in paths[:SAMPLES]]))
        return found

    def _term(self, text: str) -> str:
        """A term of a composition as it was given: a concept's prompt by the concept's name."""
        prompts = {default_prompt(self.recipe.concepts.property, token): bare_name(token) for token in self.run.tokens}
        return prompts.get(text, text)

    def _files(self, folder: str) -> dict[str, list[Path]]:
        """The PNGs below a folder of the run, by the first folder below it that they lie in."""
        root, found = self.run.path / folder, defaultdict(list)
        for path in sorted(root.rglob("*.png")):
            place = path.relative_to(root)
            if len(place.parts) > 1 and not path.name.startswith("."):
                found[place.parts[0]].append(path)
        return dict(found)

    def _shown(self, path: Path, side: int = SIDE) -> Shown:
        said = png_text(path)
        seed = f"seed {said['seed']}" if "seed" in said else ""
        return Shown(self.gallery.add(path, side), said.get("prompt", path.name), seed)

    # ---- numbers

    @cached_property
    def rows(self) -> list[tuple[int, Shown, int, list[Cell]]]:
        """The weights: for each image its place, what it is, its strongest concept, and a cell a concept."""
        most = float(np.abs(self.weights).max()) or 1.0
        return [
            (i, image, int(row.argmax()), [Cell(f"{w:.2f}", _strength(w, most), float(w)) for w in row])
            for i, (image, row) in enumerate(zip(self.images, self.weights, strict=False))
        ]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of evaluation.json that the page can show; none for a file that is damaged."""
        try:
            document = json.loads((self.run.path / "evaluation.json").read_text(encoding="utf-8"))
            metrics = {str(name): dict(one) for name, one in document["metrics"].items()}
            for name, one in metrics.items():
                if name == "naming":  # whatever is missing in them is missed here
                    _ = str(one["advice"]), [_named(found) for found in one["concepts"].values()]
                else:
                    _ = self._notes(name, one), self._bars(name, one), self._confusion(one)
            return metrics
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    @property
    def advice(self) -> str | None:
        return self.metrics.get("naming", {}).get("advice")

    @cached_property
    def figures(self) -> list[dict[str, Any]]:
        """A panel for each metric: what it is by, its bars, its confusion matrix."""
        titles = {
            "clip": "Samples by CLIP",
            "resnet": "Samples by ResNet",
            "assignment": "Training images by their strongest concept",
            "classification": "Held-out images classified by their weights",
        }
        return [
            {
                "name": name,
                "title": titles[name],
                "notes": self._notes(name, one),
                "bars": self._bars(name, one),
                "classes": self._confusion(one)[0],
                "confusion": self._confusion(one)[1],
            }
            for name, one in self.metrics.items()
            if name in titles
        ]

    @cached_property
    def missing_metrics(self) -> list[tuple[str, str]]:
        """Those not computed yet, each with its command."""
        known = ("clip", "resnet", "assignment", "classification", "naming")
        return [(name, self.command("evaluate", "--metric", name)) for name in known if name not in self.metrics]

    def _notes(self, name: str, one: dict[str, Any]) -> str:
        """What the figures of a metric are figures of."""
        count = f"{one['images']} images"
        if name == "classification":
            said = f"{count}, {one['folds']} folds, beside raw pixels and the features of {one['clip_model']}"
        elif name == "assignment":
            said = f"{count}, by their weights, against their classes"
        else:
            said = f"{count}, {one['scorer']}, threshold {one['threshold']:.3g}"
        caveat = f" Note: {one['caveat']}." if one.get("caveat") else ""
        return f"{said}. Whiskers are 95% intervals.{caveat}"

    def _bars(self, name: str, one: dict[str, Any]) -> list[Bar]:
        if name == "classification":
            titles = {"weights": "concept weights", "pixels": "raw pixels", "clip": "CLIP features"}
            ways = {"kmeans": "k-means", "logistic": "logistic regression"}
            return [
                _bar(f"{titles.get(features, features)}, {way}", by, found[by], found["intervals"].get(by))
                for by, way in ways.items()
                for features, found in one["features"].items()
            ]
        spans = one.get("intervals", {})
        return [
            _bar(title, measure, one[measure], spans.get(measure))
            for measure, title in MEASURES.items()
            if measure in one and (one[measure] is not None or measure.startswith("kl"))
        ]

    def _confusion(self, one: dict[str, Any]) -> tuple[list[str], list[tuple[str, int | None, list[Cell]]]]:
        """Classes, and a row a concept; the classes that concepts are matched to come first, on the diagonal."""
        concepts = one["concepts"]
        if "classes" not in one:
            return [], []
        matched = [found["matched_class"] for found in concepts.values() if found["matched_class"]]
        classes = [*matched, *(name for name in one["classes"] if name not in matched)]
        rows = []
        for name, found in concepts.items():
            counts = [found["counts"][label] for label in classes]
            most = max(sum(counts), 1)
            hue = self.hues[self.names.index(name)] if name in self.names else None
            rows.append((name, hue, [Cell(str(count), _strength(count, most)) for count in counts]))
        return classes, rows


def _named(one: dict[str, Any]) -> Named:
    wrong = ["dead"] * bool(one["dead"]) + ["mixed"] * bool(one["mixed"])
    seen, neighbours = (
        [(str(word["word"]), f"{word['similarity']:.2f}") for word in words[:3]]
        for words in (one["seen"], one["neighbours"])
    )
    return Named(str(one["name"]), wrong + [f"same as {other}" for other in one["same_as"]], seen, neighbours)


def _bar(title: str, measure: str, value: float | None, bounds: Sequence[float | None] | None) -> Bar:
    text, span = figure(measure, value), interval(measure, bounds).strip()
    if measure not in SHARES or value is None:
        return Bar(title, text, span)
    low, high = (100 * bound for bound in bounds) if span else (None, None)
    return Bar(title, text, span, 100 * value, low, high)


def _strength(value: float, most: float) -> int:
    """How much colour a cell gets, 0 to 100."""
    return round(100 * min(abs(float(value)) / most, 1.0))
