"""Which images are of a kind, and how many kinds there are, by how much a word that was learned from each explains the
others.

Shapes: L images, W words; gains (L, W) are the shares of an image's error that a word takes away.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_COUNTED, LEAST = 2.0, 1e-3  # deviations that count when kinds are counted, and the least variance among them
PLACE = 2.5  # times log K nats that the place of an image among K kinds costs: pairs tell less than they are many
MOVES = 20  # of images between groups, at most
TINY = 1e-6  # the least deviation of a word's gains: one that explains all images alike prefers none


def of_others(gains: Tensor) -> Tensor:
    """Gains (L, L) in which a word, learned from one image, counts there like the best that was learned from another:
    it knows all of that image, not only what others share with it.
    """
    others = gains.masked_fill(torch.eye(len(gains), dtype=torch.bool), -torch.inf).amax(dim=1, keepdim=True)
    return gains.diagonal_scatter(others[:, 0]) if len(gains) > 1 else gains


def groups(gains: Tensor, count: int) -> tuple[list[int], Tensor]:
    """`count` kinds of image, by how much the word learned from each image explains each other one, (L, L): the words
    that stand for them, and which kind each image is of, (L,).

    What counts is how much more a word explains an image than it explains others, and than others explain it: a word
    that explains a bit of everything stands for nothing. And no more than a word would that explains one in `count`
    images and no other: an image that a word knows by heart is no kind. Words are chosen as facilities, images go to
    the word that explains them best; then each moves to the group whose words explain it best and whose images its own
    word does, until none moves.
    """
    relative = standardized(gains).clamp(max=max(count - 1, 1) ** 0.5)
    kept = facilities(relative, count)
    owners = gains[:, kept].argmax(dim=1)
    owners[kept] = torch.arange(count)
    alike = (relative + relative.T).fill_diagonal_(0)
    for _ in range(MOVES):
        members = F.one_hot(owners, count).double()
        others = members.sum(dim=0) - members  # how many of a group are not the image itself
        mean = (alike @ members / others.clamp(min=1)).masked_fill(others == 0, 0)  # nothing is known of an empty group
        if torch.equal(moved := mean.argmax(dim=1), owners):
            break
        owners = moved
    return kept, owners


def number_of_kinds(gains: Tensor, at_most: int) -> int:
    """How many kinds of image there are, from 2 to `at_most`, by the gains (L, L) that `groups` takes.

    Two images either are of a kind or are not, and how well their words explain each other is normally distributed in
    either case. A kind that is two makes the first case wide, and two that are one the second. Of the groupings into 2,
    3 and more kinds the likeliest is taken, in view of how many there could be.
    """
    relative = standardized(gains).clamp(max=MOST_COUNTED)
    above = torch.ones_like(relative, dtype=torch.bool).triu(diagonal=1)
    alike = ((relative + relative.T) / 2)[above]
    likelihoods = []
    for count in range(2, min(at_most, len(gains)) + 1):
        owners = groups(gains, count)[1]
        together = (owners[:, None] == owners)[above]
        cases = [each for each in (alike[together], alike[~together]) if len(each)]
        likelihood = sum(_likelihood(each, len(alike)) for each in cases)
        likelihoods.append(likelihood - PLACE * len(gains) * math.log(count))
    return 2 + likelihoods.index(max(likelihoods))


def _likelihood(values: Tensor, total: int) -> float:
    """Log-likelihood, up to a constant, of normally distributed `values`, and of there being so many among `total`."""
    return len(values) * (math.log(len(values) / total) - 0.5 * math.log(float(values.var(correction=0)) + LEAST))


def standardized(gains: Tensor) -> Tensor:
    """Gains (L, L) in deviations: of each word over the images, then of each image over the words."""
    relative = gains.double()
    for dim in (0, 1):
        deviation = relative.std(dim=dim, keepdim=True, correction=0).clamp(min=TINY)
        relative = (relative - relative.mean(dim=dim, keepdim=True)) / deviation
    return relative


def facilities(gains: Tensor, count: int) -> list[int]:
    """The `count` columns of `gains` (L, W) with the largest sum over rows of the best of them: greedily, then by swaps
    until none helps.

    A column that helps no row is worth 0, like no word at all.
    """
    worth = gains.clamp(min=0).double()
    kept: list[int] = []
    best = torch.zeros(len(worth), 1, dtype=torch.float64)
    for _ in range(count):
        totals = torch.maximum(best, worth).sum(dim=0)
        totals[kept] = -1
        kept.append(int(totals.argmax()))
        best = torch.maximum(best, worth[:, kept[-1:]])
    total, improved = float(best.sum()), True
    while improved:
        improved = False
        for place in range(count):
            others = [column for other, column in enumerate(kept) if other != place]
            rest = worth[:, others].amax(dim=1, keepdim=True) if others else torch.zeros_like(best)
            totals = torch.maximum(rest, worth).sum(dim=0)
            totals[others] = -1
            if float(totals.max()) > total * (1 + 1e-9):
                kept[place], total, improved = int(totals.argmax()), float(totals.max()), True
    return kept
