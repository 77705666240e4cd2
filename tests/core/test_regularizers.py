"""Each term by hand, on vectors whose lengths, distances and angles are plain."""

from __future__ import annotations

import math

import pytest
import torch

from concepts_cli.core.regularizers import NEAREST, energy, regularization, similarity
from concepts_cli.recipe import RegularizerSettings

# One image, three scores of shape (1, 1, 2): (3, 0), (0, 4) and (3, 4). Pairs: distance 5, 4, 3; dot 0, 9, 16.
SCORES = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [3.0, 4.0]]])[:, :, None, None]
WEIGHTS = torch.tensor([[1.0, 2.0, 1.0]])
WORDS = torch.tensor([[3.0, 0.0], [0.0, 4.0]])


def terms(scores=SCORES, words=WORDS, **settings) -> dict[str, float]:
    found = regularization(RegularizerSettings(**settings), scores, WEIGHTS, words)
    return {name: value.item() for name, value in found.items()}


def test_nothing_is_added_unless_asked_for():
    assert terms() == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0 + 9 + 16) / 2 / 3),  # dots over their length, 2, and the number of pairs
        ({"square_similarity": True}, math.sqrt(0 + 4.5**2 + 8**2)),
        ({"normalize_scores": True}, (0 + 3 / 5 + 4 / 5) / 2 / 3),
        ({"weighted_scores": True}, (0 + 9 + 32) / 2 / 3),  # the second score doubled
    ],
)
def test_score_similarity(settings, expected):
    assert terms(score_similarity=0.1, **settings) == {"score_similarity": pytest.approx(0.1 * expected)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"energy": "euclidean"}, (1 / 5 + 1 / 4 + 1 / 3) / 3),
        ({"energy": "log"}, -math.log(5 * 4 * 3) / 3),
        ({"energy": "log", "normalize_scores": True}, -math.log(math.sqrt(2) * math.sqrt(0.8) * math.sqrt(0.4)) / 3),
        ({"energy": "arccos"}, -math.log(math.pi / 2 * math.acos(3 / 5) * math.acos(4 / 5)) / 3),
        ({"energy": "euclidean", "weighted_scores": True}, (1 / math.sqrt(73) + 1 / 4 + 1 / 5) / 3),
    ],
)
def test_score_energy(settings, expected):
    assert terms(score_energy=2.0, **settings) == {"score_energy": pytest.approx(2 * expected)}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("token_repulsion", {}, -math.log(5)),
        ("token_repulsion", {"normalize_scores": True}, -math.log(math.sqrt(2))),
        ("token_similarity", {}, 0.0),
        ("token_distance", {}, 1 / 5),
        ("token_norm", {}, 3.5),
    ],
)
def test_words(name, settings, expected):
    assert terms(**{name: 0.5}, **settings) == {name: pytest.approx(0.5 * expected)}


def test_token_similarity_is_the_mean_square():
    words = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])  # dots 2, 1, 2
    assert terms(words=words, token_similarity=1.0) == {"token_similarity": pytest.approx((4 + 1 + 4) / 3)}


def test_one_concept_has_no_pairs():
    every = {"score_similarity": 1.0, "score_energy": 1.0, "token_repulsion": 1.0, "token_similarity": 1.0}
    found = regularization(RegularizerSettings(**every, token_distance=1.0), SCORES[:, :1], WEIGHTS[:, :1], WORDS[:1])
    assert {value.item() for value in found.values()} == {0.0}


@pytest.mark.parametrize("kind", ["euclidean", "log", "arccos"])
def test_two_that_coincide_give_no_infinity(kind):
    vectors = torch.tensor([[[3.0, 4.0], [3.0, 4.0]]], requires_grad=True)
    value = energy(vectors, kind) + similarity(vectors * 0, square=True)
    value.backward()
    assert value.isfinite() and value.abs() <= 1 / NEAREST + 1 and vectors.grad.isfinite().all()


def test_each_pushes_two_words_apart():
    for name in ("token_repulsion", "token_distance"):
        words = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        (value,) = regularization(RegularizerSettings(**{name: 1.0}), SCORES, WEIGHTS, words).values()
        value.backward()
        with torch.no_grad():
            moved = words - 0.1 * words.grad
        assert (moved[0] - moved[1]).norm() > math.sqrt(2)
