"""Concepts that start from the images: words are learned image by image, and tell which images are of a kind.

The loss (eq. 10) has many valleys: a word that starts at random often ends where it explains a bit of every image. A
word that is learned from a single image explains others of its kind, and how much each word lowers each image's error
tells the kinds apart. Only the frozen model is asked; no label and no other network.

Shapes: N images, L landmarks (the images that words are learned from), W candidate words, K concepts, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.core.draws import seeded
from concepts_cli.core.grouping import TINY, groups, number_of_kinds, of_others
from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import image_errors
from concepts_cli.core.teaching import (
    CANDIDATE_RATE,
    CANDIDATE_STEPS,
    LEVELS,
    ROWS,
    Start,
    Teacher,
    Words,
    count_of,
)
from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel

WORD_STEPS, WORD_RATE = 18, 0.2  # of AdamW, for the words of groups
MANY, LISTED, COARSE = 64, 24, (1, 4)  # of more words than MANY, all but LISTED are measured at these levels only
RIVALS, MORE = 3, 4  # an image is measured again, up to MORE times, until its best word is surely ahead of its rivals
SURE = 3.0  # by so many standard errors


class ImageStart(Teacher):
    """A word of its own for each kind of image."""

    def __init__(
        self,
        model: DiffusionModel,
        latents: Latents,
        count: int | None,
        *,
        at_most: int = 12,
        restarts: int = 3,
        **options: Any,
    ):
        """`restarts` words are learned from each landmark. Without a `count` the images tell it: from 2 to `at_most`.
        `options` are those of `Teacher`.
        """
        super().__init__(model, latents, count, **options)
        self.at_most, self.restarts = min(count or at_most, len(latents)), restarts
        self.chunks = torch.arange(len(self.landmarks) * restarts).split(ROWS)
        self.total = len(self.chunks) * CANDIDATE_STEPS + len(self.landmarks) + WORD_STEPS

    def steps(self) -> Iterator[None]:
        landmarks, candidates = self.landmarks, []
        images = landmarks.repeat(self.restarts)  # of the candidates, (W,)
        own = []
        for chunk in self.chunks:
            words, everyone = self._mean_words(len(chunk)), torch.arange(len(chunk))
            yield from self._train(words, images[chunk], everyone, CANDIDATE_STEPS, CANDIDATE_RATE)
            candidates.append({name: table.detach() for name, table in words.items()})
            if self.restarts > 1:
                own.append(self._gains(words, images[chunk], everyone[:, None], seed=0).mean(dim=0)[:, 0])
        words = {name: torch.cat([each[name] for each in candidates]) for name in candidates[0]}
        if own:  # of an image's candidates, the one that explains it best
            best = torch.cat(own).unflatten(0, (self.restarts, -1)).argmax(dim=0)
            words = {name: table[best * len(landmarks) + torch.arange(len(landmarks))] for name, table in words.items()}
        gains = []
        for image in landmarks:
            gains.append(self._likely_gains(words, image[None], seed=1)[0])
            yield
        told = of_others(torch.cat(gains))
        if not told.isfinite().all():
            raise UcdError("the model's errors are not finite", "--set train.mixed_precision=bf16, or no", exit_code=1)
        kept, owners = groups(told, self.count or number_of_kinds(told, self.at_most))
        words = {name: table[kept].clone().requires_grad_() for name, table in words.items()}
        yield from self._train(words, landmarks, owners, WORD_STEPS, WORD_RATE)
        found = self._sure_gains(words, torch.arange(len(self.latents)))
        owned = F.one_hot(found.argmax(dim=1), count_of(words)).float()
        self.result = Start({name: table.detach() for name, table in words.items()}, owned)

    def _likely_gains(self, words: Words, images: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean gains of all words (M, W), those of the likeliest by level (T, M, V), and which these are (M, V).

        Of many words, all but the likeliest are measured at the coarse levels alone, and never rank above those.
        """
        count = count_of(words)
        every = torch.arange(count).expand(len(images), -1)
        if count <= MANY:
            gains = self._gains(words, images, every, seed=seed)
            return gains.mean(dim=0), gains, every
        coarse = self._gains(words, images, every, seed=seed, levels=COARSE)
        likely = coarse.mean(dim=0).topk(LISTED, dim=1).indices
        fine = self._gains(words, images, likely, seed=seed, levels=sorted({*range(LEVELS)} - {*COARSE}))
        gains = torch.cat([coarse.gather(2, likely.expand(len(coarse), -1, -1)), fine])
        mean = gains.mean(dim=0)
        others = coarse.mean(dim=0).minimum(mean.amin(dim=1, keepdim=True))
        return others.scatter(1, likely, mean), gains, likely

    def _sure_gains(self, words: Words, images: Tensor) -> Tensor:
        """The gains of all words, (M, K), each in deviations from its mean over the images; measured again where an
        image's best word is not surely the best.
        """
        mean, gains, likely = self._likely_gains(words, images, seed=2)
        centre, deviation = mean.mean(dim=0), mean.std(dim=0, correction=0).clamp(min=TINY)
        mean = (mean - centre) / deviation
        places = mean.gather(1, likely).topk(min(RIVALS, mean.shape[1]), dim=1).indices
        rivals = likely.gather(1, places)  # (M, R)
        centre, deviation = centre[rivals], deviation[rivals]
        gains = (gains.gather(2, places.expand(len(gains), -1, -1)) - centre) / deviation
        seen = list(gains.unbind(dim=1))  # M times (T, R)
        for again in range(MORE):
            unsure = torch.tensor([n for n, each in enumerate(seen) if _in_doubt(each)], dtype=torch.long)
            if len(unsure) == 0:
                break
            more = self._gains(words, images[unsure], rivals[unsure], seed=3 + again)
            more = (more - centre[unsure]) / deviation[unsure]
            for n, each in zip(unsure.tolist(), more.unbind(dim=1), strict=True):
                seen[n] = torch.cat([seen[n], each])
        return mean.scatter(1, rivals, torch.stack([each.mean(dim=0) for each in seen]))

    @torch.no_grad()
    def _gains(
        self, words: Words, images: Tensor, of: Tensor, *, seed: int, levels: Sequence[int] = range(LEVELS)
    ) -> Tensor:
        """The share of the unconditional error of images (M,) that words `of` (M, V) take away, at each of T noise
        levels: (T, M, V).

        The levels cover the noisier part of the process evenly. All images (of one size) and words share the noise of a
        level.
        """
        alike = self._alike(images)
        starts = [self.sentences_of[image].start for image in images.tolist()]
        if len(set(starts)) > ROWS:  # as with captions: all of their prompts at once would take much memory
            alike = [part for group in alike for part in group.split(ROWS)]
        if len(alike) > 1:
            apart = [self._gains(words, images[part], of[part], seed=seed, levels=levels) for part in alike]
            return torch.cat(apart, dim=1)[:, torch.cat(alike).argsort()]
        tokens = self._teach(words)
        firsts = sorted(set(starts))  # the first template of each property
        prompts = [text for s in firsts for text in ("", *map(self.sentences[s].format, tokens))]
        conditioning = self.model.encode_prompts(prompts)
        offsets = torch.tensor([firsts.index(s) * (1 + len(tokens)) for s in starts])[:, None]
        without = torch.zeros(len(of), 1, dtype=torch.long)
        rows = offsets + torch.cat([without, of + 1], dim=1)
        which = torch.arange(len(rows))[:, None].expand_as(rows)
        gains = []
        means = torch.stack([self.latents.moments(image)[0] for image in images.tolist()])
        noises = torch.randn(LEVELS, *means.shape[1:], generator=seeded(seed, "gains"))
        for level in levels:
            time, noise = self._time(torch.tensor((level + 0.5) / LEVELS)), noises[level]
            parts = zip(which.flatten().split(self.rows), rows.flatten().split(self.rows), strict=True)
            errors = [
                self._errors(means[image], noise, time, conditioning[row], self._masks(images[image]))
                for image, row in parts
            ]
            errors = torch.cat(errors).unflatten(0, rows.shape)
            gains.append(1 - errors[:, 1:] / errors[:, :1])
        return torch.stack(gains)

    def _errors(
        self, clean: Tensor, noise: Tensor, time: Tensor, conditioning: Conditioning, masks: Tensor | None
    ) -> Tensor:
        """The mean squared error of each latent (B, C, H, W) under its prompt, (B,); all share the noise (C, H, W)."""
        times = time.expand(len(clean))
        noisy, target = self._example(clean, noise.expand_as(clean), times)
        predicted = self.model.predict(noisy, times.to(self.model.device), conditioning)
        return image_errors(predicted, target, masks).cpu()


def _in_doubt(gains: Tensor) -> bool:
    """Whether the best of R words, by gains (T, R) at T levels, is not SURE standard errors ahead of each other one."""
    best = gains.mean(dim=0).argmax()
    ahead = gains[:, best, None] - gains
    doubt = ahead.mean(dim=0) <= SURE * ahead.std(dim=0) / len(ahead) ** 0.5
    return bool(doubt[torch.arange(gains.shape[1]) != best].any())
