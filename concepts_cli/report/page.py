"""The content of a run's page, read from its folder; `body.html` lays it out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from concepts_cli.drawing.hues import hues
from concepts_cli.errors import UcdError
from concepts_cli.metrics.labels import read_labels
from concepts_cli.paths import public_path, public_settings
from concepts_cli.pictures.commands import command
from concepts_cli.recipe import Recipe, dump_recipe
from concepts_cli.report.chart import Chart, loss_chart, read_losses
from concepts_cli.report.composed import Pair, composed_pairs, generated_again
from concepts_cli.report.inline import Gallery
from concepts_cli.report.map import Map, weight_map
from concepts_cli.report.measures import Cell, Measures, describe_name, strength
from concepts_cli.report.pictures import SAMPLES, SIDE, Pictures, Shown
from concepts_cli.report.rendering import render
from concepts_cli.runs.run import Run, bare_name

TRAINING_IMAGES = 300  # at most, in the run's order
HEAT_MAPS = 3
THUMBNAIL = 128


@dataclass
class Page:
    """A run, prepared for the template."""

    run: Run
    gallery: Gallery = field(default_factory=Gallery)

    def render(self) -> str:
        """Render one self-contained HTML document."""
        title = f"{self.run.name}: {len(self.names)} concepts in {len(self.run.images)} images"
        return render("body.html", self, title)

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(self.run, self.gallery)

    @cached_property
    def measures(self) -> Measures:
        return Measures(self.run, dict(zip(self.names, self.hues, strict=True)))

    def command(self, verb: str, *arguments: str) -> str:
        return command(self.run, verb, *arguments)

    # ---- the run

    @cached_property
    def path(self) -> str:
        return public_path(self.run.path)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as it is shown: others learn no folder of this machine."""
        return public_settings(self.run.recipe)

    @cached_property
    def recipe_text(self) -> str:
        return dump_recipe(self.recipe)

    @cached_property
    def names(self) -> list[str]:
        return [bare_name(token) for token in self.run.tokens]

    @cached_property
    def hues(self) -> list[int]:
        return hues(len(self.names))

    @cached_property
    def weights(self) -> np.ndarray:
        return self.run.weights.float().numpy()

    @cached_property
    def losses(self) -> list[tuple[int, float]]:
        return read_losses(self.run.path / "metrics.jsonl")

    @cached_property
    def chart(self) -> Chart | None:
        return loss_chart(self.losses)

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """The run in a few figures."""
        figures = [("images", str(len(self.run.images))), ("concepts", str(len(self.names)))]
        if self.losses:
            figures.append(("steps", f"{self.losses[-1][0]:,}"))
        measures = self.measures
        if matched := measures.share("assignment", "matched_accuracy"):
            figures.append(("images matched", matched))
        if accuracy := measures.share("resnet" if "resnet" in measures.metrics else "clip", "accuracy"):
            figures.append(("sample accuracy", accuracy))
        if held_out := measures.share("classification", "features", "weights", "kmeans"):
            figures.append(("held-out, k-means", held_out))
        return figures

    @cached_property
    def settings(self) -> list[tuple[str, str]]:
        """The most important settings."""
        recipe = self.recipe
        weights, train = recipe.weights, recipe.train
        places = ", ".join(recipe.data.images[:4])
        more = len(recipe.data.images) - 4
        return [
            ("model", recipe.model),
            ("images", places + (f" and {more} more" if more > 0 else "")),
            ("concepts", f"{recipe.concepts.count}, as {recipe.concepts.property or 'bare words'}"),
            ("weights", "softmax (sum to one)" if weights.constraint == "softmax" else "unconstrained"),
            ("batch", f"{train.batch_size} x {train.gradient_accumulation}"),
            (
                "learning rate",
                f"{train.learning_rate:g}" if train.learning_rate else "a twentieth of the words' deviation",
            ),
            ("seed", str(train.seed)),
        ]

    @cached_property
    def commands(self) -> list[tuple[str, str, bool]]:
        """Every command of the page: its purpose, the command, and whether it was run."""
        measured = [part for metric in self.measures.metrics for part in ("--metric", metric)]
        again = shlex.join(["ucd", "train", f"{self.path}/recipe.yaml", "--output", f"{self.path}-again"])
        entries = [("discover again with the same settings", again, True)]
        sampled = next((paths for paths in self.pictures.samples.values() if paths), [])
        sampling = self.pictures.command(sampled) or self.command("sample", "--concept", "all")
        mapped = next((paths for name in self.names if (paths := self.pictures.heat_maps.get(name))), [])
        mapping = self.pictures.command(mapped) or self.command("visualize", "--training-images")
        entries.append(("sample", sampling, bool(sampled)))
        entries.append(("draw heat maps", mapping, bool(mapped)))
        entries.append(("measure", self.command("evaluate", *(measured or ("--metric", "all"))), bool(measured)))
        entries += [
            (f"compose {made.title}", made.command, True) for made in self.pictures.compositions if made.command
        ]
        entries.append(("make this page", self.command("report"), True))
        return entries

    # ---- pictures

    @cached_property
    def shown_images(self) -> int:
        return min(len(self.run.images), TRAINING_IMAGES)

    @cached_property
    def images(self) -> list[Shown]:
        """The training images, with their hidden classes if the recipe has labels."""
        records = self.run.images[:TRAINING_IMAGES]
        labels = self.labels or [""] * len(records)
        return [
            Shown(self.gallery.add(Path(record.path), THUMBNAIL, record.sha256), Path(record.path).name, label)
            for record, label in zip(records, labels, strict=False)
        ]

    @cached_property
    def labels(self) -> list[str] | None:
        if not self.run.recipe.evaluate.labels:
            return None
        try:
            image_classes = read_labels(self.run.recipe.evaluate.labels, [record.path for record in self.run.images])
        except UcdError:
            return None
        return [", ".join(classes) for classes in image_classes]

    @cached_property
    def concepts(self) -> list[dict[str, Any]]:
        """One card per concept."""
        samples = self.pictures.samples
        owners = self.weights.argmax(axis=1)
        cards = []
        for k, (token, name) in enumerate(zip(self.run.tokens, self.names, strict=True)):
            naming = self.measures.metrics.get("naming", {}).get("concepts", {}).get(name)
            prompt = self.recipe.concepts.prompt_of(token)
            cards.append(
                {
                    "name": name,
                    "hue": self.hues[k],
                    "prompt": prompt,
                    "owned": int((owners == k).sum()),
                    "named": describe_name(naming) if naming else None,
                    "samples": [self.pictures.shown(path) for path in samples[name][:SAMPLES]],
                    "strongest": [self._strong(image, k) for image in self.pictures.strongest[name]],
                    "heat_maps": [
                        self.pictures.shown(path, 2 * SIDE)
                        for path in self.pictures.heat_maps.get(name, [])[:HEAT_MAPS]
                    ],
                    "sample_command": self.pictures.command(samples[name]),
                    "heat_command": self.pictures.command(self.pictures.heat_maps.get(name, [])),
                    "to_sample": self.command("sample", "--concept", name),
                    "to_map": self.command("visualize", "--training-images", "--concept", name),
                }
            )
        return cards

    def _strong(self, image: int, concept: int) -> Shown:
        record = self.run.images[image]
        picture = self.gallery.add(Path(record.path), THUMBNAIL, record.sha256)
        return Shown(picture, Path(record.path).name, f"{self.weights[image, concept]:.2f}")

    @cached_property
    def map(self) -> Map | None:
        """Where the shown images and the concepts are, by their weights."""
        return weight_map(self.weights[: self.shown_images])

    @cached_property
    def pairs(self) -> tuple[list[str], list[list[Pair]]]:
        return composed_pairs(self.run, self.gallery, self.measures.metrics.get("composition"))

    @cached_property
    def again(self) -> list[tuple[Shown, Shown]]:
        return generated_again(self.run, self.gallery, self.images)

    @cached_property
    def rows(self) -> list[tuple[int, Shown, int, list[Cell]]]:
        """The rows of the weights table: index, image, strongest concept, and one cell per concept."""
        most = float(np.abs(self.weights).max()) or 1.0
        return [
            (i, image, int(row.argmax()), [Cell(f"{w:.2f}", strength(w, most), float(w)) for w in row])
            for i, (image, row) in enumerate(zip(self.images, self.weights, strict=False))
        ]
