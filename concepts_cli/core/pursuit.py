"""Concepts that share images: each is looked for in what those before it leave unexplained.

Where every image shows several things, a word that is learned from a single image stands for one of them, or for a
blend. Which it is, the others tell: a thing is in some images and not in others, so its word explains much of the
former and nothing of the latter, where a blend, or what all images have, explains a bit of most. The word that
separates the images best is taken, and its part of every image's score is taken away, as in matching pursuit (Mallat &
Zhang, 1993); then the next one. Some words are learned again from what is left. Only the frozen model is asked.

Shapes: N images, L landmarks (the images that words are learned from), W words, K concepts.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import Latents
from concepts_cli.core.teaching import (
    CANDIDATE_RATE,
    CANDIDATE_STEPS,
    FEW,
    LEVELS,
    ROWS,
    Start,
    Teacher,
    Words,
    count_of,
    joined,
)
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import DiffusionModel

ROUNDS = 3  # in each of which words are learned from what is left, and a part of the concepts is taken
TINY = 1e-9  # the least square of a score, relative to the unconditional error


class PursuitStart(Teacher):
    """K words of which several may be in an image."""

    def __init__(self, model: DiffusionModel, latents: Latents, count: int, **options: Any):
        """`options` are those of `Teacher`."""
        super().__init__(model, latents, count, **options)
        self.landmarks = self.landmarks[
            torch.randperm(len(self.landmarks), generator=self.generator)[:FEW].sort().values
        ]
        self.goals = goals(count)
        chunks = math.ceil(len(self.landmarks) / ROWS)
        self.total = len(self.goals) * (chunks * CANDIDATE_STEPS + len(self.landmarks)) + len(latents)

    def steps(self) -> Iterator[None]:
        landmarks, everyone = self.landmarks, torch.arange(len(self.landmarks))
        known = others = {name: table.detach() for name, table in self._mean_words(0).items()}
        weights = torch.zeros(len(landmarks), 0)
        teachers: list[int] = []  # the landmark that each of the others was learned from
        for goal in self.goals:
            pool = joined(known, others)
            for chunk in everyone.split(ROWS):
                words, owners = self._mean_words(len(chunk)), torch.arange(len(chunk))
                left = (known, weights[chunk]) if count_of(known) else None
                yield from self._train(words, landmarks[chunk], owners, CANDIDATE_STEPS, CANDIDATE_RATE, left=left)
                pool = joined(pool, {name: table.detach() for name, table in words.items()})
            origins = [-1] * count_of(known) + teachers + everyone.tolist()
            gram, cross = yield from self._products(pool, landmarks.tolist())
            least = len(landmarks) / max(self.goals[-1], 2)
            taken, weights, rest = pursue(gram, cross, origins, taken=range(count_of(known)), count=goal, least=least)
            known, others = ({name: table[each] for name, table in pool.items()} for each in (taken, rest))
            teachers = [origins[word] for word in rest]
        gram, cross = yield from self._products(known, range(len(self.latents)))
        self.result = Start(known, nonnegative_weights(gram, cross).float())

    def _products(self, words: Words, images: Sequence[int]) -> Generator[None, None, tuple[Tensor, Tensor]]:
        """What `_measured` says of each image: (M, W, W) and (M, W)."""
        products = []
        for image in images:
            products.append(self._measured(words, image))
            yield
        gram, cross = (torch.stack(each) for each in zip(*products, strict=True))
        return gram, cross

    @torch.no_grad()
    def _measured(self, words: Words, image: int) -> tuple[Tensor, Tensor]:
        """What W words add to the unconditional score of an image: the products of these with each other, (W, W), and
        with what they should add up to, (W,); relative to the latter's square, and averaged over noise levels.
        """
        tokens = self._teach(words)
        sentence = self.sentences[self.sentences_of[image].start]
        prompts = ["", *(sentence.format(token) for token in tokens)]
        calls = len(prompts)
        rows = torch.arange(calls).split(self.rows)
        conditioning = [self.model.encode_prompts([prompts[n] for n in part.tolist()]) for part in rows]
        mean = self.latents.moments(image)[0]
        mask = self._masks(torch.tensor([image]))
        noises = torch.randn(LEVELS, *mean.shape, generator=seeded(0, "pursuit"))
        gram, cross = (torch.zeros(shape, dtype=torch.float64) for shape in ((calls - 1, calls - 1), (calls - 1,)))
        for level, noise in enumerate(noises):
            time = self._time(torch.tensor((level + 0.5) / LEVELS))[None]
            noisy, target = self._example(mean[None], noise[None], time)
            times = time.to(self.model.device)
            scores = torch.cat(
                [
                    self.model.predict(noisy.expand(len(part), -1, -1, -1), times.expand(len(part)), part)
                    for part in conditioning
                ]
            )
            if mask is not None:
                scores, target = (each * mask.sqrt() for each in (scores, target))
            scores, truth = scores.flatten(1).cpu().double(), target[0].flatten().cpu().double()
            added, missing = scores[1:] - scores[:1], truth - scores[0]
            unconditional = missing.square().sum() * LEVELS
            gram += added @ added.T / unconditional
            cross += added @ missing / unconditional
        if not gram.isfinite().all():
            raise UcdError("the model's errors are not finite", "--set train.mixed_precision=bf16, or no", exit_code=1)
        return gram.float(), cross.float()


def goals(count: int) -> list[int]:
    """How many of `count` concepts there are after each round."""
    each = math.ceil(count / ROUNDS)
    return [*range(each, count, each), count]


def pursue(
    gram: Tensor, cross: Tensor, origins: Sequence[int], *, taken: Sequence[int], count: int, least: float
) -> tuple[list[int], Tensor, list[int]]:
    """Take words, beside those that are `taken`, until there are `count`, by the products of W words' scores with each
    other (L, W, W) and with what is to be explained (L, W).

    `origins` are the landmarks that words were learned from, or -1: of its own a word says nothing. A word is for
    about `least` images or more. Returns the words taken, their weights (L, count), and as many of the best others.
    """
    taken = list(taken)
    lengths = gram.diagonal(dim1=1, dim2=2).clamp(min=TINY).sqrt()
    weights, worths = _weights_of(gram, cross, taken), torch.zeros(0)
    while len(taken) < count:
        left = cross - (gram[:, :, taken] @ weights[..., None])[..., 0]
        explained = (left.clamp(min=0) / lengths).T  # (W, L): how long a part of what is left each word can explain
        worths = torch.stack(
            [separation(_without(row, origin), least) for row, origin in zip(explained, origins, strict=True)]
        )
        worths[taken] = -1
        taken.append(int(worths.argmax()))
        weights = _weights_of(gram, cross, taken)
        worths[taken] = -1
    rest = [word for word in worths.argsort(descending=True).tolist() if word not in taken]
    return taken, weights, rest[:count]


def separation(values: Tensor, least: float) -> Tensor:
    """How much of the sum of squares of values (M,) is between a high and a low group, at the best threshold (Otsu,
    1979), if the high group has about `least` values or more; else 0.
    """
    if len(values) < 2:
        return values.new_zeros(())
    ordered = values.sort().values
    total, high = len(values), torch.arange(len(values) - 1, 0, -1)
    sums = ordered.cumsum(dim=0)
    low_mean, high_mean = sums[:-1] / (total - high), (sums[-1] - sums[:-1]) / high
    between = high * (total - high) / total * (high_mean - low_mean).square()
    return between.masked_fill(high + 1 < least, 0).amax()


def nonnegative_weights(gram: Tensor, cross: Tensor) -> Tensor:
    """The weights w >= 0 (L, K) with the smallest `w' gram w - 2 w' cross` (Lawson & Hanson, 1974)."""
    from scipy.optimize import nnls

    if not cross.numel():
        return torch.zeros_like(cross)
    identity = TINY * np.eye(cross.shape[1])
    weights = []
    for one, other in zip(gram.double().numpy(), cross.double().numpy(), strict=True):
        root = np.linalg.cholesky(one + identity)
        weights.append(nnls(root.T, np.linalg.solve(root, other))[0])
    return torch.from_numpy(np.array(weights)).to(gram)


def _weights_of(gram: Tensor, cross: Tensor, words: Sequence[int]) -> Tensor:
    chosen = torch.tensor(list(words), dtype=torch.long)
    return nonnegative_weights(gram[:, chosen][:, :, chosen], cross[:, chosen])


def _without(row: Tensor, place: int) -> Tensor:
    return row if place < 0 else torch.cat([row[:place], row[place + 1 :]])
