"""Weights against hidden classes: scikit-learn and an exhaustive search are the oracles."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from concepts_cli.metrics.assignment import assign


def test_a_permutation_of_the_classes_is_perfect():
    labels = [["cat"], ["dog"], ["cat"], ["fox"]]
    weights = np.eye(3)[[2, 0, 2, 1]]
    result = assign(weights, labels)
    assert (result.matched_accuracy, result.ari, result.nmi) == (1.0, 1.0, pytest.approx(1.0))
    assert result.classes == ("cat", "dog", "fox")
    assert result.sizes.tolist() == [1, 1, 2]


def test_against_scikit_learn_and_every_permutation():
    rng = np.random.default_rng(0)
    weights, truth = rng.normal(size=(40, 4)), rng.integers(4, size=40)
    weights[np.arange(40), truth] += 1.0
    result = assign(weights, [["abcd"[c]] for c in truth])
    strongest = weights.argmax(axis=1)
    best = max((np.array(order)[strongest] == truth).mean() for order in permutations(range(4)))
    assert result.matched_accuracy == pytest.approx(best)
    assert result.ari == pytest.approx(adjusted_rand_score(truth, strongest))
    assert result.nmi == pytest.approx(normalized_mutual_info_score(truth, strongest))


def test_an_image_of_several_classes_is_right_with_any_of_them():
    labels = [["cat", "night"], ["dog", "night"], ["dog"], ["cat"]]
    weights = np.eye(2)[[0, 1, 1, 1]]
    result = assign(weights, labels)
    assert result.matched_accuracy == 0.75
    assert result.ari is None and result.nmi is None
    assert result.sizes.tolist() == [1, 3]
