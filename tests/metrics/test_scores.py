"""The paper's numbers, against hand-made cases and SciPy."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import beta, bootstrap, entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from concepts_cli.metrics.scores import (
    accuracy,
    adjusted_rand_index,
    class_counts,
    clip_score,
    diversity,
    intervals,
    kl_from_uniform,
    kl_to_uniform,
    match_one_to_one,
    matched_accuracy,
    normalized_mutual_information,
    purity,
)


def one_hot(classes, count, high=1.0):
    return high * np.eye(count)[classes]


def test_accuracy_is_the_share_of_best_scores_at_or_above_the_threshold():
    scores = np.array([[0.1, 0.31], [0.3, 0.2], [0.29, 0.1], [0.0, 0.05]])
    assert accuracy(scores, 0.3) == 0.5
    assert accuracy(scores, 0.0) == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 1e-8, 0.5])
def test_kl_is_scipys(smoothing):
    scores = np.random.default_rng(0).normal(size=(200, 5)) + np.array([1.0, 0.5, 0, 0, 0])
    counts = np.bincount(scores.argmax(axis=1), minlength=5) + smoothing
    expected = entropy(np.full(5, 0.2), counts)  # scipy normalises the counts
    assert kl_from_uniform(scores, smoothing) == pytest.approx(expected, abs=1e-12)


def test_kl_of_an_even_spread_is_zero_and_does_not_look_at_the_size_of_scores():
    scores = one_hot(np.arange(20) % 4, 4, high=1e-6)
    assert kl_from_uniform(scores) == pytest.approx(0, abs=1e-12)


def test_kl_of_a_class_without_images_is_infinite_unless_smoothed():
    scores = one_hot(np.zeros(64, dtype=int), 2)
    assert kl_from_uniform(scores) == math.inf
    # by hand: 1/2 log(1/2 / 1) + 1/2 log(1/2 / (1e-8 / 64))
    assert kl_from_uniform(scores, 1e-8) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 * 64e8), rel=1e-6)


def test_the_match_uses_each_class_once():
    # Both concepts show class 0 most; only one can have it. 5 + 3 beats 6 + 1.
    counts = np.array([[6, 3, 0], [5, 1, 0]])
    assert match_one_to_one(counts) == {0: 1, 1: 0}
    assert matched_accuracy(counts) == pytest.approx(8 / 15)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_the_match_with_unlike_numbers_leaves_some_out(shape):
    match = match_one_to_one(np.arange(6).reshape(shape))
    assert len(match) == 2 and len(set(match.values())) == 2


def test_class_counts_are_a_confusion_matrix():
    scores = one_hot(np.array([0, 0, 2, 1]), 3)
    counts = class_counts(scores, np.array([0, 0, 0, 2]), 3)
    assert counts.tolist() == [[2, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("smoothing", [0.0, 1e-8])
def test_the_other_direction_is_scipys_too(smoothing):
    scores = np.random.default_rng(1).normal(size=(50, 4)) + np.array([2.0, 0.5, 0, -9])
    counts = np.bincount(scores.argmax(axis=1), minlength=4) + smoothing
    assert kl_to_uniform(scores, smoothing) == pytest.approx(entropy(counts, np.full(4, 0.25)), abs=1e-12)
    assert counts[3] < 1 and math.isfinite(kl_to_uniform(scores))


def test_purity_lets_concepts_share_a_class():
    assert purity(np.array([[6, 2], [5, 3]])) == 11 / 16
    assert matched_accuracy(np.array([[6, 2], [5, 3]])) == 9 / 16


@pytest.mark.parametrize(("images", "concepts"), [(1, 1), (2, 2), (5, 3), (25, 1), (25, 5), (200, 12)])
def test_ari_and_nmi_are_scikit_learns(images, concepts):
    rng = np.random.default_rng(images)
    for spread in (1, concepts):  # the same partition, and another
        truth = rng.integers(0, concepts, images)
        found = (truth + rng.integers(0, spread, images)) % concepts
        counts = np.zeros((concepts, concepts), dtype=int)
        np.add.at(counts, (found, truth), 1)
        assert adjusted_rand_index(counts) == pytest.approx(adjusted_rand_score(truth, found))
        assert normalized_mutual_information(counts) == pytest.approx(
            normalized_mutual_info_score(truth, found), abs=1e-9
        )


def test_clip_score_counts_nothing_below_zero():
    assert clip_score(np.array([0.3, -0.5, 0.2])) == pytest.approx(100 * 0.5 / 3)


def test_diversity_is_the_mean_cosine_distance_of_pairs():
    features = np.random.default_rng(0).normal(size=(12, 7))
    assert diversity(features) == pytest.approx(pdist(features, "cosine").mean())
    assert diversity(np.ones((3, 5))) == pytest.approx(0)
    assert diversity(features[:1]) is None


def test_intervals_are_about_the_exact_and_scipys():
    right = np.arange(200) < 150
    low, high = intervals(lambda drawn: {"share": right[drawn].mean()}, [np.arange(200)])["share"]
    exact = beta.ppf([0.025, 0.975], [150, 151], [51, 50])  # Clopper and Pearson, 1934
    assert (low, high) == (pytest.approx(exact[0], abs=0.02), pytest.approx(exact[1], abs=0.02))
    theirs = bootstrap((right,), np.mean, n_resamples=5000, method="percentile").confidence_interval
    assert (low, high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))


def test_intervals_draw_as_many_of_each_group_as_there_are():
    owners = np.repeat([0, 1, 2], [4, 10, 6])
    groups = [(owners == k).nonzero()[0] for k in range(3)]
    seen = []

    def measure(drawn):
        seen.append(np.bincount(owners[drawn], minlength=3).tolist())
        return {"a": 0.5, "b": math.inf if len(seen) % 2 else 1.0}

    assert intervals(measure, groups) == {"a": (0.5, 0.5), "b": (1.0, math.inf)}
    assert len(seen) > 900 and all(counts == [4, 10, 6] for counts in seen)
    assert intervals(measure, [np.arange(1), np.arange(4)]) == {}
