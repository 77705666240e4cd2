"""Words learned from images, each from those it is given: textual inversion (Gal et al., 2022) of many words at once.

Shapes: M images, W words of D numbers, C H W latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concepts_cli.core.concepts import several
from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import image_errors
from concepts_cli.core.optimizing import deviation
from concepts_cli.models.interface import DiffusionModel

CANDIDATE_STEPS, CANDIDATE_RATE = 32, 0.2  # of AdamW, for each candidate; in deviations of the table; rates fall to 0
NOISIER = (0.5, 1.0)  # the part of the process in which words decide what a picture shows
LEVELS = 6  # noise levels in it, at each of which an image's error is measured once
FEW = 64  # landmarks, or eight per concept
ROWS = 64  # of a model call
SCALE = 1024.0  # of the loss: AdamW doesn't mind, and half precision keeps small gradients

Words = dict[str, Tensor]  # by text encoder, (W, D) each, or (W, V, D) for words of V vectors


@dataclass(frozen=True)
class Start:
    """Where training begins: K words, and their weights in each image, (N, K)."""

    words: Words
    weights: Tensor

    def raw_weights(self, constraint: str) -> Tensor:
        """Raw weights (N, K). With `softmax` an image's own word has about 0.8 of the weight for K = 5, which training
        can still move.
        """
        return self.weights * (3.0 if constraint == "softmax" else 1.0)


class Teacher(ABC):
    """Teaches words to a frozen model, in the noisier part of the process. `steps()` does the work, a part at a time;
    `result` is there once its `total` steps are done.
    """

    total: int
    result: Start | None = None

    def __init__(
        self,
        model: DiffusionModel,
        latents: Latents,
        count: int | None,
        *,
        sentences: Sequence[str],
        sentences_of: Sequence[range] = (),
        vectors: int = 1,
        where: str = "input",
        rows: int = ROWS,
        seed: int = 0,
    ):
        """`count` words are looked for. `sentences` are templates with one `{}`, of which each image may have its own
        (`sentences_of`); `rows` is the most of a model call, which changes no result. There are at least as many images
        as concepts.
        """
        self.model, self.latents, self.count = model, latents, count
        self.vectors, self.where, self.rows = vectors, where, rows
        self.sentences = tuple(sentences)
        self.sentences_of = list(sentences_of) or [range(len(sentences))] * len(latents)
        self.generator = seeded(seed, "start")
        self.landmarks = self._landmarks()

    @abstractmethod
    def steps(self) -> Iterator[None]:
        """Find the result."""

    def _landmarks(self) -> Tensor:
        """(L,) all images, or a random part of many."""
        order = torch.randperm(len(self.latents), generator=self.generator)
        return order[: most_landmarks(self.count or 0)].sort().values

    def _mean_words(self, count: int) -> Words:
        """Words at the mean of the encoder's token table, so that they differ only by what images teach."""
        means = {encoder: table.float().mean(dim=0) for encoder, table in self._typical.items()}
        shape = (count, *several(self.vectors), 1)
        return {encoder: mean.repeat(shape).requires_grad_() for encoder, mean in means.items()}

    @property
    def _typical(self) -> Mapping[str, Tensor]:
        return self.model.typical_vectors(self.where)

    def _teach(self, words: Words) -> list[str]:
        tokens = [f"<candidate{n}>" for n in range(count_of(words))]
        self.model.set_concepts(tokens, words, self.where)
        return tokens

    def _train(
        self,
        words: Words,
        images: Tensor,
        owners: Tensor,
        steps: int,
        rate: float,
        *,
        left: tuple[Words, Tensor] | None = None,
    ) -> Iterator[None]:
        """Train words on images (M,), each on those that it owns (M,).

        A step shows every image once, at times that cover the process evenly, each with one of its templates. Of F
        other words and their weights in the images, (M, F), what these leave unexplained is learned (`left`).
        """
        count = len(images)
        rates = {name: rate * deviation(table) for name, table in self._typical.items()}
        optimizer = torch.optim.AdamW([{"params": [words[name]], "lr": rates[name]} for name in words], weight_decay=0)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(steps):
            strata = torch.randperm(count, generator=self.generator) + torch.rand(count, generator=self.generator)
            times = self._time(strata / count)
            template = torch.rand((), generator=self.generator).item()  # one for all: words differ by what images show
            for part, clean, noise in self._noised(images):
                among = [self.sentences_of[image] for image in images[part].tolist()]
                chosen = [self.sentences[each[int(template * len(each))]] for each in among]
                noisy, target = self._example(clean, noise, times[part])
                tokens = self._teach(joined(left[0], words) if left else words)
                when = times[part].to(self.model.device)
                if left:
                    target = target - self._explained(noisy, when, chosen, tokens, left[1][part])
                own = tokens[len(tokens) - count_of(words) :]
                prompts = [s.format(own[o]) for s, o in zip(chosen, owners[part].tolist(), strict=True)]
                predicted = self._predicted(noisy, when, prompts)
                loss = image_errors(predicted, target, self._masks(images[part])).sum() / count
                (loss * SCALE).backward()
            optimizer.step()
            falling.step()
            optimizer.zero_grad()
            yield

    def _predicted(self, noisy: Tensor, times: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the model predicts under each prompt; each different one is encoded once."""
        different = list(dict.fromkeys(prompts))
        conditioning = self.model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
        return self.model.predict(noisy, times, conditioning)

    @torch.no_grad()
    def _explained(
        self, noisy: Tensor, times: Tensor, sentences: Sequence[str], tokens: Sequence[str], weights: Tensor
    ) -> Tensor:
        """The weighted sum of the first F tokens' scores, less the unconditional one (eq. 11), in images (B, C, H, W)
        with weights (B, F).
        """
        explained = torch.zeros_like(noisy)
        images, words = weights.nonzero(as_tuple=True)
        if len(images) == 0:
            return explained
        some, place = images.unique(return_inverse=True)
        prompts = [""] * len(some)
        prompts += [sentences[i].format(tokens[k]) for i, k in zip(images.tolist(), words.tolist(), strict=True)]
        rows = torch.cat([some, images])
        scores = []
        for part in torch.arange(len(rows)).split(self.rows):
            of = rows[part]
            scores.append(self._predicted(noisy[of], times[of], [prompts[n] for n in part.tolist()]))
        without, conditional = torch.cat(scores).split([len(some), len(images)])
        shares = weights[images, words].to(noisy)[:, None, None, None]
        return explained.index_add_(0, images.to(noisy.device), shares * (conditional - without[place]))

    def _time(self, shares: Tensor) -> Tensor:
        """Times of the process at these shares of its noisier part."""
        low, high = NOISIER
        return self.model.noise.time(low + (high - low) * shares.double())

    def _masks(self, images: Tensor) -> Tensor | None:
        """The masks of images (B,), (B, 1, H, W), if any image has one."""
        if not self.latents.masked:
            return None
        return torch.stack([self.latents.mask(image) for image in images.tolist()]).to(self.model.device)

    def _alike(self, images: Tensor) -> list[Tensor]:
        """The positions in `images` (M,), those with latents of one size together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(images.tolist()):
            groups.setdefault(self.latents.shape(image), []).append(position)
        return [torch.tensor(group) for group in groups.values()]

    def _noised(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Up to `rows` images of one size at a time: their positions in `images` (M,), their latents, drawn from their
        distribution, and noise, (B, C, H, W) each.
        """
        for group in self._alike(images):
            moments = [self.latents.moments(image) for image in images[group].tolist()]
            mean, std = (torch.stack(each) for each in zip(*moments, strict=True))
            spread, noise = torch.randn(2, *mean.shape, generator=self.generator)
            parts = (each.split(self.rows) for each in (group, mean + std * spread, noise))
            yield from zip(*parts, strict=True)

    def _example(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        device = self.model.device
        return self.model.noise.example(clean.to(device), noise.to(device), times.to(device))


def count_of(words: Words) -> int:
    return len(next(iter(words.values())))


def joined(first: Words, second: Words) -> Words:
    """The words of both, those of the first before those of the second."""
    return {name: torch.cat([first[name], second[name]]) for name in second}


def most_landmarks(count: int) -> int:
    """How many images words are learned from at most, for `count` concepts."""
    return max(FEW, 8 * count)
