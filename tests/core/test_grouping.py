"""Images of a kind are found by what words explain: facilities, then groups."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from concepts_cli.core.draws import seeded
from concepts_cli.core.grouping import facilities, groups, number_of_kinds, of_others


@pytest.mark.parametrize("seed", range(6))
def test_the_best_columns_are_found(seed):
    """Against every choice of three of eight, on gains of which some are negative."""
    gains = torch.randn(9, 8, generator=seeded(seed, "gains"))

    def worth(columns) -> float:
        return gains.clamp(min=0)[:, list(columns)].amax(dim=1).sum().item()

    best = max(worth(columns) for columns in combinations(range(8), 3))
    kept = facilities(gains, 3)
    assert len(set(kept)) == 3 and worth(kept) >= 0.97 * best


def test_of_twins_one_is_kept():
    groups = torch.eye(3).repeat_interleave(2, dim=1).repeat_interleave(4, dim=0)  # each of three words twice
    assert sorted(column // 2 for column in facilities(groups, 3)) == [0, 1, 2]
    assert facilities(-torch.ones(4, 3), 3) == [0, 1, 2]  # none of them helps


KINDS = torch.arange(12) // 4


def gains_of_kinds(seed: int, noise: float = 0.02) -> torch.Tensor:
    """How much the words of twelve images of three kinds explain each other, (12, 12), with some noise."""
    return 0.1 * (KINDS[:, None] == KINDS) + noise * torch.randn(12, 12, generator=seeded(seed, "gains"))


def test_images_of_a_kind_are_a_group():
    kept, owners = groups(gains_of_kinds(0), 3)
    assert sorted(KINDS[kept].tolist()) == [0, 1, 2]
    assert (KINDS[kept][owners] == KINDS).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_kinds_is_found(seed):
    gains = gains_of_kinds(seed, noise=0.005)
    assert number_of_kinds(gains, 12) == 3
    two = KINDS < 2
    assert number_of_kinds(gains[two][:, two], 12) == 2
    assert number_of_kinds(gains, 2) == 2


def test_a_word_that_explains_a_bit_of_everything_stands_for_nothing():
    """The first image's word explains all images nearly as well as their own kinds' words, which differ more."""
    gains = gains_of_kinds(1) * ((torch.arange(12)[:, None] + torch.arange(12)) % 3 > 0)
    gains[:, 0] = 0.08
    assert 0 in facilities(gains, 3)
    kept, owners = groups(gains, 3)
    assert 0 not in kept and (KINDS[kept][owners] == KINDS).all()


def test_an_image_that_a_word_knows_by_heart_is_no_kind():
    gains = gains_of_kinds(2)
    gains[4] += 1.0  # an easy image
    gains[5, 9] = 5.0  # and one that a word of another kind explains far better than any explains any other
    kept, owners = groups(gains, 3)
    assert sorted(KINDS[kept].tolist()) == [0, 1, 2]
    assert (KINDS[kept][owners] == KINDS).sum() >= 11


def test_more_concepts_than_kinds_leave_no_image_without_a_group():
    kept, owners = groups(gains_of_kinds(3), 12)
    assert sorted(kept) == list(range(12)) and owners.shape == (12,)
    kept, owners = groups(gains_of_kinds(3), 1)
    assert owners.tolist() == [0] * 12


def test_at_its_own_image_a_word_counts_like_the_best_of_the_others():
    gains = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.8, 0.1], [0.1, 0.4, 0.7]])
    assert of_others(gains).tolist() == torch.tensor([[0.2, 0.2, 0.1], [0.3, 0.3, 0.1], [0.1, 0.4, 0.4]]).tolist()
    assert of_others(torch.tensor([[0.5]])).tolist() == [[0.5]]
