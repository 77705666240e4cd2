"""Classifiers on features: cases whose answer is known, and scikit-learn step by step."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from concepts_cli.errors import UcdError
from concepts_cli.metrics.classification import classify
from concepts_cli.metrics.labels import one_label


def blobs(spread, each=10, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), each)
    return np.eye(classes)[truth] * 4 + rng.normal(size=(len(truth), classes)) * spread, ["abc"[c] for c in truth]


def test_what_is_far_apart_is_told_apart():
    features, labels = blobs(0.2)
    result = classify(features, labels)
    assert result.kmeans.all() and result.logistic.all() and result.folds == 5


def test_noise_is_chance():
    features, labels = blobs(0.0)
    result = classify(np.random.default_rng(1).normal(size=features.shape), labels)
    assert result.kmeans.mean() < 0.7 and result.logistic.mean() < 0.7


def test_against_scikit_learn_by_hand():
    features, labels = blobs(3.0)
    labels = np.array(labels)
    result = classify(features, labels)
    clusters = KMeans(3, n_init=10, random_state=0).fit_predict(features)
    majority = {c: max(sorted(set(labels)), key=lambda one: (labels[clusters == c] == one).sum()) for c in range(3)}
    assert result.kmeans.tolist() == [majority[c] == label for c, label in zip(clusters, labels, strict=True)]
    right = np.zeros(len(labels), dtype=bool)
    for known, left_out in StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels):
        mean, deviation = features[known].mean(axis=0), features[known].std(axis=0)
        model = LogisticRegression(max_iter=2000).fit((features[known] - mean) / deviation, labels[known])
        right[left_out] = model.predict((features[left_out] - mean) / deviation) == labels[left_out]
    assert result.logistic.tolist() == right.tolist()
    assert 0.4 < result.logistic.mean() < 1  # neither trivial nor hopeless


def test_few_images_make_fewer_folds():
    features, labels = blobs(0.1, each=3)
    assert classify(features, labels).folds == 3
    with pytest.raises(UcdError, match="single held-out image: c"):
        classify(features[:7], labels[:7])
    with pytest.raises(UcdError, match="one class, a"):
        classify(features[:3], labels[:3])


def test_the_label_that_counts():
    assert one_label([["cat"], ["night", "dog"]], ["cat", "dog"]) == ["cat", "dog"]
    assert one_label([["fox"]], []) == ["fox"]
    with pytest.raises(UcdError, match="one class per image, but one has cat, dog"):
        one_label([["cat", "dog"]], ["cat", "dog"])
