"""Concepts that start from the images: words are learned image by image, and the best of them are kept.

The loss (eq. 10) has many valleys: a word that starts at random often ends where it explains a bit of every image. So
does a word that is learned from a single image, but of many words some do not, and the loss itself tells which: with
weights of 0 and 1, choosing among them is a facility-location problem over how much each word lowers each image's
error. Only the frozen model is asked; no label and no other network.

Shapes: N images, L landmarks (the images that words are learned from), W candidate words, K concepts, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import Latents
from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel

CANDIDATE_STEPS, RATE = 15, 5e-3  # of AdamW, for each candidate
ROUNDS, ROUND_STEPS = 2, 12  # of assigning images to the K words and training them on what they got
MIDDLE = (0.35, 0.85)  # of the process: where a word makes a difference, and noise does not drown it
LEVELS = 6  # noise levels in it
FEW = 64  # landmarks, or eight per concept
ROWS = 64  # of a model call
SCALE = 1024.0  # of the loss: AdamW doesn't mind, and half precision keeps small gradients

Words = dict[str, Tensor]  # by text encoder, (W, D) each


@dataclass(frozen=True)
class Start:
    """Where training begins: K words, and how much each lowers the error of each image, (N, K)."""

    words: Words
    gains: Tensor

    def raw_weights(self, constraint: str, initial: float) -> Tensor:
        """Raw weights (N, K) of an image's best word and of the others.

        With `softmax` the best has about 0.8 of the weight for K = 5, which training can still move; without a
        constraint it has `initial`, and the others 0.
        """
        best = F.one_hot(self.gains.argmax(dim=1), self.gains.shape[1]).float()
        return best * (3.0 if constraint == "softmax" else initial)


class ImageStart:
    """Finds a `Start`. `steps()` does the work, a part at a time; `result` is there once they are done."""

    def __init__(
        self,
        model: DiffusionModel,
        latents: Latents,
        count: int,
        *,
        sentences: Sequence[str],
        sentences_of: Sequence[range] = (),
        restarts: int = 3,
        seed: int = 0,
    ):
        """`sentences` are templates with one `{}`, of which each image may have its own (`sentences_of`); `restarts`
        words are learned from each landmark. Raises UcdError for fewer images than concepts.
        """
        if len(latents) < count:
            raise UcdError(
                f"{len(latents)} images can't start {count} concepts", "add images, or set concepts.start: table"
            )
        self.model, self.latents, self.count, self.restarts = model, latents, count, restarts
        self.sentences = tuple(sentences)
        self.sentences_of = list(sentences_of) or [range(len(sentences))] * len(latents)
        self.generator = seeded(seed, "start")
        self.landmarks = self._landmarks()
        self.chunks = torch.arange(len(self.landmarks) * restarts).split(ROWS)
        self.total = len(self.chunks) * CANDIDATE_STEPS + len(self.landmarks) + ROUNDS * ROUND_STEPS
        self.result: Start | None = None

    def _landmarks(self) -> Tensor:
        """(L,) all images, or a random part of many."""
        most = max(FEW, 8 * self.count)
        order = torch.randperm(len(self.latents), generator=self.generator)
        return order[:most].sort().values

    def steps(self) -> Iterator[None]:
        candidates: list[Words] = []
        images = self.landmarks.repeat(self.restarts)  # of the candidates, (W,)
        own = []
        for chunk in self.chunks:
            words = self._random_words(len(chunk))
            yield from self._train(words, images[chunk], torch.arange(len(chunk)), CANDIDATE_STEPS, RATE)
            candidates.append({name: table.detach() for name, table in words.items()})
            own.append(self._gains(words, images[chunk], torch.arange(len(chunk))[:, None], seed=0)[:, 0])
        # Of an image's candidates, the one that explains it best.
        best = torch.cat(own).unflatten(0, (self.restarts, -1)).argmax(dim=0) * len(self.landmarks)
        chosen = best + torch.arange(len(self.landmarks))
        words = {name: torch.cat([each[name] for each in candidates])[chosen] for name in candidates[0]}
        gains = []
        everyone = torch.arange(len(chosen))
        for image in self.landmarks:
            gains.append(self._gains(words, image[None], everyone[None], seed=1))
            yield
        kept = facilities(torch.cat(gains), self.count)
        words = {name: table[kept].clone().requires_grad_() for name, table in words.items()}
        owners = torch.cat(gains)[:, kept].argmax(dim=1)
        every = torch.arange(self.count).expand(len(self.landmarks), -1)
        for part in range(ROUNDS):
            yield from self._train(words, self.landmarks, owners, ROUND_STEPS, RATE / (1 + part))
            owners = self._gains(words, self.landmarks, every, seed=2 + part, levels=2 * LEVELS).argmax(dim=1)
        everything = torch.arange(len(self.latents))
        every = torch.arange(self.count).expand(len(everything), -1)
        gained = self._gains(words, everything, every, seed=2 + ROUNDS, levels=2 * LEVELS)
        self.result = Start({name: table.detach() for name, table in words.items()}, gained)

    def _random_words(self, count: int) -> Words:
        """(W, D) by text encoder: around the mean of its token table, with its deviation in each dimension."""
        words = {}
        for encoder, weights in self.model.tables.items():
            table = weights.float().cpu()
            start = table.mean(dim=0) + table.std(dim=0) * torch.randn(count, table.shape[1], generator=self.generator)
            words[encoder] = start.to(self.model.device).requires_grad_()
        return words

    def _teach(self, words: Words) -> list[str]:
        tokens = [f"<candidate{n}>" for n in range(len(next(iter(words.values()))))]
        self.model.set_concepts(tokens, words)
        return tokens

    def _train(self, words: Words, images: Tensor, owners: Tensor, steps: int, rate: float) -> Iterator[None]:
        """Train words on images (M,), each on those that it owns (M,): textual inversion of all of them at once.

        A step shows every image once, at times that cover the process evenly, each with one of its templates.
        """
        tokens, count = self._teach(words), len(images)
        optimizer = torch.optim.AdamW(words.values(), rate, weight_decay=0)
        for _ in range(steps):
            strata = torch.randperm(count, generator=self.generator) + torch.rand(count, generator=self.generator)
            times = self.model.noise.time((strata / count).double())
            template = torch.rand((), generator=self.generator).item()  # one for all: words differ by what images show
            clean, noise = self._noised(images)
            for part in torch.arange(count).split(ROWS):
                among = [self.sentences_of[image] for image in images[part].tolist()]
                chosen = [self.sentences[each[int(template * len(each))]] for each in among]
                prompts = [s.format(tokens[o]) for s, o in zip(chosen, owners[part].tolist(), strict=True)]
                different = list(dict.fromkeys(prompts))
                conditioning = self.model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
                noisy, target = self._example(clean[part], noise[part], times[part])
                predicted = self.model.predict(noisy, times[part].to(self.model.device), conditioning)
                loss = (predicted - target).square().mean(dim=(1, 2, 3)).sum() / count
                (loss * SCALE).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield

    @torch.no_grad()
    def _gains(self, words: Words, images: Tensor, of: Tensor, *, seed: int, levels: int = LEVELS) -> Tensor:
        """How much words lower the error of images (M,) below the unconditional one: for words `of` (M, V) -> (M, V).

        Divided by the root of the unconditional error, so that no noise level outweighs the others, and averaged over
        `levels` in the middle of the process. All images and words share the noise of a level.
        """
        tokens = self._teach(words)
        starts = [self.sentences_of[image].start for image in images.tolist()]
        firsts = sorted(set(starts))  # the first template of each property
        prompts = [text for s in firsts for text in ("", *map(self.sentences[s].format, tokens))]
        conditioning = self.model.encode_prompts(prompts)
        offsets = torch.tensor([firsts.index(s) * (1 + len(tokens)) for s in starts])[:, None]
        rows = offsets + torch.cat(
            [torch.zeros(len(of), 1, dtype=torch.long), of + 1], dim=1
        )  # without a word, and with
        which = torch.arange(len(rows))[:, None].expand_as(rows)
        total = torch.zeros(of.shape)
        generator = seeded(seed, "gains")
        means = torch.stack([self.latents.moments(image)[0] for image in images.tolist()])
        for level in range(levels):
            u = MIDDLE[0] + (MIDDLE[1] - MIDDLE[0]) * (level + 0.5) / levels
            time = self.model.noise.time(torch.tensor(u, dtype=torch.float64))
            noise = torch.randn(means.shape[1:], generator=generator)
            parts = zip(which.flatten().split(ROWS), rows.flatten().split(ROWS), strict=True)
            errors = [self._errors(means[image], noise, time, conditioning[row]) for image, row in parts]
            errors = torch.cat(errors).unflatten(0, rows.shape)
            total += (errors[:, :1] - errors[:, 1:]) / errors[:, :1].sqrt()
        return total / levels

    def _errors(self, clean: Tensor, noise: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """The mean squared error of each latent (B, C, H, W) under its prompt, (B,); all share the noise (C, H, W)."""
        times = time.expand(len(clean))
        noisy, target = self._example(clean, noise.expand_as(clean), times)
        predicted = self.model.predict(noisy, times.to(self.model.device), conditioning)
        return (predicted - target).square().mean(dim=(1, 2, 3)).cpu()

    def _noised(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of images, drawn from their distribution, and noise, (M, C, H, W) each."""
        moments = [self.latents.moments(image) for image in images.tolist()]
        mean, std = (torch.stack(each) for each in zip(*moments, strict=True))
        spread, noise = torch.randn(2, *mean.shape, generator=self.generator)
        return mean + std * spread, noise

    def _example(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        device = self.model.device
        return self.model.noise.example(clean.to(device), noise.to(device), times.to(device))


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
