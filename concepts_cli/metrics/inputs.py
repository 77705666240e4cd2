"""What metrics measure: a run, its samples, labels and scorers, each loaded lazily and once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from concepts_cli.data.finding import find
from concepts_cli.data.images import ImageRecord
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError
from concepts_cli.metrics.labels import folder_labels, one_label, read_labels
from concepts_cli.metrics.words import known_words, read_words
from concepts_cli.models.device import chosen_device
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output
from concepts_cli.pictures.samples import Samples, find_samples, own_samples
from concepts_cli.recipe import BUILT_IN
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.scorers.clip import ClipScorer, choose_clip
from concepts_cli.scorers.resnet import ResNetScorer, load_built_in_resnet, load_resnet

Scorer = ClipScorer | ResNetScorer


class MetricInputs:
    """A run under evaluation. Every property raises UcdError if its value is missing or can't be used."""

    def __init__(
        self,
        run: Run,
        *,
        class_names: Sequence[str] = (),
        threshold: float | None = None,
        samples: Path | None = None,
        held_out: Sequence[str | Path] = (),
        device: str | None = None,
        out: Output,
    ):
        self.run, self.settings = run, run.recipe.evaluate
        self.device, self.out = device, out
        self._class_names, self.threshold = class_names, threshold
        self.other_samples = find_samples(samples) if samples else None
        self._held_out = held_out
        self._features: dict[str, np.ndarray] = {}

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        return tuple(map(bare_name, self.run.tokens))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The hidden classes: those given, else the recipe's, else all that the labels name.

        The recipe's must be of these images: its labels have to name them all.
        """
        names: Sequence[str] | None = tuple(name.strip() for name in self._class_names)
        if not names and self.settings.labels and Path(self.settings.labels).is_file():  # not of a run from elsewhere
            _ = self.labels
        names = names or self.settings.class_names
        if not names and (self.settings.labels or folder_labels(self._paths)):
            names = sorted(set(chain(*self.labels)))
        if not names or not all(names):
            hint = "--class-names geyser,mosque,…, or evaluate.class_names in the recipe"
            raise UcdError("no class names to score against", hint)
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise UcdError(f"class names given twice: {', '.join(duplicates)}", "name each class once")
        return tuple(names)

    def scorer_names(self, metric: str) -> tuple[str, ...]:
        """What a scorer calls the classes of `names`: the ResNet may have names of its own, in the same order."""
        own = self.settings.resnet_class_names
        return own if own and metric == "resnet" and self.names == self.settings.class_names else self.names

    @cached_property
    def labels(self) -> list[list[str]]:
        """The training images' classes: the recipe's labels, else the names of their folders."""
        if self.settings.labels:
            return read_labels(self.settings.labels, self._paths)
        if not (labels := folder_labels(self._paths)):
            hint = 'one folder per class, or evaluate.labels in the recipe: a JSON file {"file name": ["class", …], …}'
            raise UcdError("no labels of the training images to compare with", hint)
        return labels

    @property
    def _paths(self) -> list[str]:
        return [image.path for image in self.run.images]

    @cached_property
    def held_out(self) -> tuple[list[ImageRecord], list[str]]:
        """Labelled images that were not trained on, and the class of each."""
        places = self._held_out or self.settings.held_out
        if not places:
            hint = "--held-out FOLDER with one subfolder of images per class, or evaluate.held_out in the recipe"
            raise UcdError("no labelled images to classify", hint)
        try:
            records = read_images(find(places, self.run.fields))
        except UcdError as error:
            raise UcdError(error.message, "evaluate.held_out (--held-out) names folders or images") from error
        paths = [record.path for record in records]
        given = None if self._held_out else self.settings.held_out_labels
        labels = read_labels(given, paths) if given else folder_labels(paths)
        if not labels:
            hint = "put them into one folder per class, or name their JSON in evaluate.held_out_labels"
            raise UcdError("the held-out images have no labels", hint)
        return records, one_label(labels, self._class_names or self.settings.class_names or ())

    @cached_property
    def words(self) -> list[str]:
        """The words that concepts may be named with."""
        if self.settings.words:
            return read_words(self.settings.words)
        return known_words(built_in=self.is_built_in)

    @property
    def is_built_in(self) -> bool:
        return self.run.recipe.model == BUILT_IN

    def scorer(self, metric: str) -> Scorer:
        return self.clip if metric == "clip" else self.resnet

    @cached_property
    def clip(self) -> ClipScorer:
        return choose_clip(self.run.recipe, chosen_device(self.device))

    @cached_property
    def resnet(self) -> ResNetScorer:
        device = chosen_device(self.device)
        return load_built_in_resnet(device) if self.is_built_in else load_resnet(self.settings.resnet_model, device)

    @cached_property
    def samples(self) -> Samples:
        return self.other_samples or own_samples(self.run, self.device, self.out)

    def features(self, metric: str) -> np.ndarray:
        """The samples' features by a scorer: (N, E)."""
        if metric not in self._features:
            self._features[metric] = self.scorer(metric).features(self.samples.paths)
        return self._features[metric]

    def check_samples(self, metric: str) -> None:
        """Raise UcdError for samples of another folder that are not of this run's concepts."""
        if self.other_samples and set(self.other_samples.concepts) != set(self.concepts):
            raise UcdError(f"{metric} needs samples of every concept of the run", "leave --samples out")

    @cached_property
    def model(self) -> DiffusionModel:
        return self.run.load_model(self.device)
