"""A run under evaluation: what its metrics need, got once and when first asked for, and what each of them says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from concepts_cli.core.encoding import STEPS, encode_records
from concepts_cli.data.images import ImageRecord, find_images, open_image, read_images, to_pixels
from concepts_cli.errors import UcdError
from concepts_cli.metrics import naming
from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.assignment import assign
from concepts_cli.metrics.classification import classify, one_label
from concepts_cli.metrics.clip import ClipScorer, load_built_in_clip, load_clip
from concepts_cli.metrics.labels import folder_labels, read_labels
from concepts_cli.metrics.resnet import ResNetScorer, load_built_in_resnet, load_resnet
from concepts_cli.models import BUILT_IN
from concepts_cli.models.stable_diffusion import StableDiffusion, chosen_device
from concepts_cli.output import Output
from concepts_cli.run_dir import Run, bare_name
from concepts_cli.samples import Samples, find_samples, own_samples

SCORED = ("clip", "resnet")  # metrics over samples and class names, by a model
METRICS = (*SCORED, "assignment", "classification", "naming")
PIXELS = 64  # side of the images that "pixels" stands for

Scorer = ClipScorer | ResNetScorer


class Evaluation:
    """`check` raises UcdError for what a metric lacks, before any long work; `compute` gives its document."""

    def __init__(
        self,
        run: Run,
        class_names: Sequence[str],
        threshold: float | None,
        samples: Path | None,
        held_out: Sequence[str | Path],
        device: str | None,
        out: Output,
    ):
        self.run, self.settings = run, run.recipe.evaluate
        self.device, self.out = device, out
        self._class_names, self._threshold = class_names, threshold
        self._samples = find_samples(samples) if samples else None
        self._held_out = held_out
        self._features: dict[str, np.ndarray] = {}

    def check(self, metric: str) -> None:
        if metric in SCORED:
            self.scorer(metric).check(self.names)
        elif metric == "assignment":
            _ = self.labels
        elif metric == "classification":
            _ = self.held_out, self.clip
        elif metric == "naming":
            self.clip.check(self.words)
            if self._samples and set(self._samples.concepts) != set(self.concepts):
                raise UcdError("naming needs samples of every concept of the run", "leave --samples out")

    def compute(self, metric: str) -> dict[str, Any]:
        return self._scored(metric) if metric in SCORED else getattr(self, f"_{metric}")()

    # ---- what the metrics need

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        return tuple(map(bare_name, self.run.tokens))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The hidden classes: as given, or the recipe's, or all that the labels name."""
        names = tuple(name.strip() for name in self._class_names) or self.settings.class_names
        if not names and (self.settings.labels or folder_labels(self._paths)):
            names = sorted(set(chain(*self.labels)))
        if not names or not all(names):
            hint = "--class-names geyser,mosque,…, or evaluate.class_names in the recipe"
            raise UcdError("no class names to score against", hint)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UcdError(f"class names given twice: {', '.join(twice)}", "name each class once")
        return tuple(names)

    @cached_property
    def labels(self) -> list[list[str]]:
        """The training images' classes: the recipe's, or the folders that they lie in."""
        if self.settings.labels:
            return read_labels(self.settings.labels, self._paths)
        if not (labels := folder_labels(self._paths)):
            hint = 'a folder a class, or evaluate.labels in the recipe: a JSON file {"file name": ["class", …], …}'
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
            hint = "--held-out FOLDER with a folder of images a class, or evaluate.held_out in the recipe"
            raise UcdError("no labelled images to classify", hint)
        try:
            records = read_images(find_images(places))
        except UcdError as error:
            raise UcdError(error.message, "evaluate.held_out (--held-out) names folders or images") from error
        paths = [record.path for record in records]
        given = None if self._held_out else self.settings.held_out_labels
        labels = read_labels(given, paths) if given else folder_labels(paths)
        if not labels:
            hint = "put them into a folder a class, or name their JSON in evaluate.held_out_labels"
            raise UcdError("the held-out images have no labels", hint)
        return records, one_label(labels, self._class_names or self.settings.class_names or ())

    @cached_property
    def words(self) -> list[str]:
        """What concepts may be named."""
        if self.settings.words:
            return naming.read_words(self.settings.words)
        return naming.known_words(built_in=self._is_built_in)

    @property
    def _is_built_in(self) -> bool:
        return self.run.recipe.model == BUILT_IN

    def scorer(self, metric: str) -> Scorer:
        return self.clip if metric == "clip" else self.resnet

    @cached_property
    def clip(self) -> ClipScorer:
        device = chosen_device(self.device)
        if self._is_built_in:
            return load_built_in_clip(device)
        return load_clip(self.settings.clip_model, self.settings.clip_pretrained, device)

    @cached_property
    def resnet(self) -> ResNetScorer:
        device = chosen_device(self.device)
        return load_built_in_resnet(device) if self._is_built_in else load_resnet(self.settings.resnet_model, device)

    @cached_property
    def samples(self) -> Samples:
        return self._samples or own_samples(self.run, self.device, self.out)

    def features(self, metric: str) -> np.ndarray:
        """Of the samples, by a scorer: (N, E)."""
        if metric not in self._features:
            self._features[metric] = self.scorer(metric).features(self.samples.paths)
        return self._features[metric]

    @cached_property
    def model(self) -> StableDiffusion:
        return self.run.load_model(self.device)

    # ---- what each says

    def _scored(self, metric: str) -> dict[str, Any]:
        """The paper's accuracy and KL by one scorer, and what they leave out."""
        scorer, samples, names = self.scorer(metric), self.samples, self.names
        limits = (self._threshold, getattr(self.settings, f"{metric}_threshold"), scorer.threshold)
        threshold = next(limit for limit in limits if limit is not None)
        features = self.features(metric)
        scores = scorer.score(features, names)  # (N, C)
        owners, smoothing = samples.owners, scorer.smoothing

        def counts(drawn: np.ndarray) -> np.ndarray:  # (K, C)
            return arithmetic.class_counts(scores[drawn], owners[drawn], len(samples.concepts))

        def measure(drawn: np.ndarray) -> dict[str, float]:
            counted = counts(drawn)
            found = {
                "accuracy": arithmetic.accuracy(scores[drawn], threshold),
                "kl": arithmetic.kl_from_uniform(scores[drawn], smoothing),
                "kl_reverse": arithmetic.kl_to_uniform(scores[drawn], smoothing),
                "matched_accuracy": arithmetic.matched_accuracy(counted),
                "purity": arithmetic.purity(counted),
            }
            return found if own is None else found | {"clip_score": arithmetic.clip_score(own[drawn])}

        whole, own = np.arange(len(scores)), None
        counted = counts(whole)
        concepts = _concepts(samples.concepts, names, counted, counted.sum(axis=1))
        spreads = [arithmetic.diversity(features[owners == k]) for k in range(len(concepts))]
        for one, spread in zip(concepts.values(), spreads, strict=True):
            one["diversity"] = spread
        if metric == "clip":  # against the caption of the class that each concept stands for
            shown = [one["matched_class"] or one["best_class"] for one in concepts.values()]
            own = scores[np.arange(len(scores)), [names.index(shown[k]) for k in owners]]
            for k, one in enumerate(concepts.values()):
                one["clip_score"] = arithmetic.clip_score(own[owners == k])
        known = [spread for spread in spreads if spread is not None]
        return {
            "scorer": scorer.name,
            "caveat": scorer.caveat,
            "threshold": threshold,
            **measure(whole),
            "diversity": float(np.mean(known)) if known else None,
            "intervals": arithmetic.intervals(measure, [(owners == k).nonzero()[0] for k in range(len(concepts))]),
            "samples": samples.folder,
            "images": len(samples.paths),
            "classes": names,
            "confusion": counted,
            "concepts": concepts,
        }

    def _assignment(self) -> dict[str, Any]:
        """How the strongest concepts of the training images agree with their labels."""
        weights, labels = self.run.weights.float().numpy(), self.labels
        result = assign(weights, labels)

        def agreement(drawn: np.ndarray) -> dict[str, float]:
            one = assign(weights[drawn], [labels[i] for i in drawn])
            found = {"matched_accuracy": one.matched_accuracy, "ari": one.ari, "nmi": one.nmi}
            return {name: value for name, value in found.items() if getattr(result, name) is not None}

        return {
            "scorer": "weights",
            "matched_accuracy": result.matched_accuracy,
            "ari": result.ari,
            "nmi": result.nmi,
            "intervals": arithmetic.intervals(agreement, [np.arange(len(labels))]),
            "images": len(labels),
            "classes": result.classes,
            "confusion": result.counts,
            "concepts": _concepts(self.concepts, result.classes, result.counts, result.sizes),
        }

    def _classification(self) -> dict[str, Any]:
        """The paper's Table 2: classifiers on the weights of held-out images, and on pixels and CLIP features."""
        records, labels = self.held_out
        encoded = encode_records(self.model, records, recipe=self.run.recipe, tokens=self.run.tokens)
        tracked = self.out.track(encoded, total=len(records), label="encoding held-out images")
        weights = np.array([one.weights for one in tracked])
        paths = [Path(record.path) for record in records]
        pixels = np.stack([to_pixels(open_image(path), PIXELS).flatten().numpy() for path in paths])
        found = {}
        for name, features in {"weights": weights, "pixels": pixels, "clip": self.clip.features(paths)}.items():
            result = classify(features, labels)
            right = {"kmeans": result.kmeans, "logistic": result.logistic}

            def shares(drawn: np.ndarray, right: dict[str, np.ndarray] = right) -> dict[str, float]:
                return {by: float(of[drawn].mean()) for by, of in right.items()}

            everyone = np.arange(len(labels))
            spans = arithmetic.intervals(shares, [everyone])
            found[name] = {**shares(everyone), "dimensions": features.shape[1], "intervals": spans}
        strongest = assign(weights, [[label] for label in labels])
        return {
            "scorer": "scikit-learn",
            "clip_model": self.clip.name,
            "features": found,
            "matched_accuracy": strongest.matched_accuracy,
            "folds": result.folds,
            "steps": STEPS,
            "images": len(labels),
            "classes": strongest.classes,
            "confusion": strongest.counts,
            "concepts": _concepts(self.concepts, strongest.classes, strongest.counts, strongest.sizes),
        }

    def _naming(self) -> dict[str, Any]:
        """Words for each concept, by its embedding and by its samples; the dead and the doubled."""
        samples, features = self.samples, self.features("clip")
        # A folder of samples is in the order of its names, t10 before t2.
        owners = np.array([self.concepts.index(samples.concepts[k]) for k in samples.owners])
        ids, words = naming.whole_words(self.model.tokenizer)
        table = self.model.token_table.float().cpu().numpy()[ids]
        neighbours = naming.nearest_words(self.run.embeddings.float().numpy(), table, words)
        seen = naming.seen_words(self.clip.score(features, self.words), owners, self.words)
        weights = self.run.weights.float().numpy()
        dead, doubled = naming.dead_concepts(weights), naming.duplicate_concepts(features, owners)
        mixed = [k for k, found in enumerate(seen) if found[0].share < naming.MIXED]
        sizes = np.bincount(weights.argmax(axis=1), minlength=len(self.concepts))
        return {
            "scorer": self.clip.name,
            "words": len(self.words),
            "concepts": {
                name: {
                    "name": seen[k][0].word,
                    "seen": seen[k],
                    "neighbours": neighbours[k],
                    "training_images": sizes[k],
                    "dead": k in dead,
                    "mixed": k in mixed,
                    "same_as": [self.concepts[a + b - k] for a, b, _ in doubled if k in (a, b)],
                }
                for k, name in enumerate(self.concepts)
            },
            "duplicates": [
                {"concepts": [self.concepts[a], self.concepts[b]], "silhouette": apart} for a, b, apart in doubled
            ],
            "advice": naming.advice(self.concepts, dead, doubled, mixed),
        }


def _concepts(
    concepts: Sequence[str], classes: Sequence[str], counts: np.ndarray, sizes: np.ndarray
) -> dict[str, dict[str, Any]]:
    """What each concept shows: its commonest class, that class's share (purity), and the one it is matched to.

    Shapes: counts (K, C) images of each class, sizes (K,) images in all.
    """
    match = arithmetic.match_one_to_one(counts)
    return {
        name: {
            "images": size,
            "best_class": classes[row.argmax()] if row.any() else None,
            "share": row.max() / size if row.any() else None,
            "matched_class": classes[match[k]] if k in match else None,
            "counts": dict(zip(classes, row, strict=True)),
        }
        for k, (name, row, size) in enumerate(zip(concepts, counts, sizes, strict=True))
    }
