"""Are the weights a good description of an image? The paper's Table 2: simple classifiers on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concepts_cli.errors import UcdError

FOLDS = 5


@dataclass(frozen=True)
class Classified:
    """What two classifiers say of N images: whether each is right, (N,)."""

    kmeans: np.ndarray
    logistic: np.ndarray
    folds: int


def classify(features: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> Classified:
    """K-means and logistic regression (scikit-learn) on features (N, E) of images with a label each.

    K-means sees no label: it finds as many clusters as there are classes (10 starts), and a cluster is then named by
    most of its images. Logistic regression, on standardised features, is told the labels of the other images: each
    image is classified by the one of FOLDS stratified folds that left it out. Raises UcdError for fewer than two
    classes, or a class of one image.
    """
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, truth, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise UcdError(f"held-out images of one class, {classes[0]}", "classification needs two at least")
    if sizes.min() < 2:
        few = ", ".join(classes[sizes < 2])
        raise UcdError(f"classes with a single held-out image: {few}", "classification needs two of each at least")
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


def one_label(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> list[str]:
    """The one class that each image has; of several, the one that is among `classes`.

    Raises UcdError where that leaves none, or more than one.
    """
    found = []
    for own in labels:
        fitting = list(own) if len(own) == 1 else [label for label in own if label in classes]
        if len(fitting) != 1:
            raise UcdError(
                f"classification needs one class an image, one has {', '.join(own)}",
                "evaluate.class_names (--class-names) says which of an image's labels count",
            )
        found += fitting
    return found
