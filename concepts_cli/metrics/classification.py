"""Are the weights a good description of an image? The paper's Table 2: simple classifiers on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from concepts_cli.core import STEPS
from concepts_cli.core.encoding import encode_records
from concepts_cli.data.images import open_image, to_pixels
from concepts_cli.errors import UcdError
from concepts_cli.metrics import scores as arithmetic
from concepts_cli.metrics.assignment import assign
from concepts_cli.metrics.figures import Table, figure, interval
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.metric import Figure, Metric, describe_concepts

FOLDS = 5
PIXELS = 64  # side of the images whose pixels are classified


@dataclass(frozen=True)
class Classified:
    """Which of N images two classifiers get right, (N,) each."""

    kmeans: np.ndarray
    logistic: np.ndarray
    folds: int


def classify(features: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> Classified:
    """K-means and logistic regression (scikit-learn) on features (N, E) of images with one label each.

    K-means sees no labels: it finds as many clusters as there are classes (10 starts), and a cluster is then named
    after most of its images. Logistic regression, on standardised features, classifies each image with the one of FOLDS
    stratified folds that left it out. Raises UcdError for fewer than two classes, or a class with one image.
    """
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, truth, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise UcdError(f"all held-out images are of one class, {classes[0]}", "classification needs at least two")
    if sizes.min() < 2:
        few = ", ".join(classes[sizes < 2])
        raise UcdError(f"classes with a single held-out image: {few}", "classification needs at least two of each")
    features = np.asarray(features, dtype=np.float64)
    clusters = KMeans(len(classes), n_init=10, random_state=seed).fit_predict(features)
    named = np.zeros(len(classes), dtype=int)
    for cluster in range(len(classes)):
        named[cluster] = np.bincount(truth[clusters == cluster], minlength=len(classes)).argmax()
    folds = min(FOLDS, int(sizes.min()))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    predicted = cross_val_predict(model, features, truth, cv=splits)
    return Classified(named[clusters] == truth, predicted == truth, folds)


WAYS = {"kmeans": "k-means", "logistic": "logistic regression"}
FEATURES = {"weights": "concept weights", "pixels": "raw pixels", "clip": "CLIP features"}


class ClassificationMetric(Metric):
    """The paper's Table 2: classifiers on the weights of held-out images, and on pixels and CLIP features."""

    name = "classification"
    title = "Held-out images classified by their weights"

    def check(self, inputs: MetricInputs) -> None:
        _ = inputs.held_out, inputs.clip

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        records, labels = inputs.held_out
        encoded = encode_records(inputs.model, records, recipe=inputs.run.recipe, tokens=inputs.run.tokens)
        tracked = inputs.out.track(encoded, total=len(records), label="encoding held-out images")
        weights = np.array([image.weights for image in tracked])
        paths = [Path(record.path) for record in records]
        pixels = np.stack([to_pixels(open_image(path), PIXELS).flatten().numpy() for path in paths])
        by_features = {}
        for name, features in {"weights": weights, "pixels": pixels, "clip": inputs.clip.features(paths)}.items():
            result = classify(features, labels)
            right = {"kmeans": result.kmeans, "logistic": result.logistic}

            def shares(drawn: np.ndarray, right: dict[str, np.ndarray] = right) -> dict[str, float]:
                return {by: float(of[drawn].mean()) for by, of in right.items()}

            everyone = np.arange(len(labels))
            spans = arithmetic.intervals(shares, [everyone])
            by_features[name] = {**shares(everyone), "dimensions": features.shape[1], "intervals": spans}
        strongest = assign(weights, [[label] for label in labels])
        return {
            "scorer": "scikit-learn",
            "clip_model": inputs.clip.name,
            "features": by_features,
            "matched_accuracy": strongest.matched_accuracy,
            "folds": result.folds,
            "steps": STEPS,
            "images": len(labels),
            "classes": strongest.classes,
            "confusion": strongest.counts,
            "concepts": describe_concepts(inputs.concepts, strongest.classes, strongest.counts, strongest.sizes),
        }

    def tables(self, result: dict[str, Any]) -> list[Table]:
        rows = []
        for name, shares in result["features"].items():
            cells = [figure(by, shares[by]) + interval(by, shares["intervals"].get(by)) for by in WAYS]
            rows.append([name, str(shares["dimensions"]), *cells])
        title = f"Classification of {result['images']} held-out images, with 95% intervals"
        return [(title, ["features", "size", *WAYS.values()], rows)]

    def note(self, result: dict[str, Any]) -> str:
        beside = f"beside raw pixels and the features of {result['clip_model']}"
        return f"{result['images']} images, {result['folds']} folds, {beside}"

    def figures(self, result: dict[str, Any]) -> list[Figure]:
        return [
            (f"{FEATURES.get(features, features)}, {way}", by, shares[by], shares["intervals"].get(by))
            for by, way in WAYS.items()
            for features, shares in result["features"].items()
        ]
