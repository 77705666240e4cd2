"""Concepts that start from the images: words are learned image by image, and tell which images are of a kind.

The loss (eq. 10) has many valleys: a word that starts at random often ends where it explains a bit of every image. A
word that is learned from a single image explains others of its kind, and how much each word lowers each image's error
tells the kinds apart. Only the frozen model is asked; no label and no other network.

Shapes: N images, L landmarks (the images that words are learned from), W candidate words, K concepts, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.core.concepts import several
from concepts_cli.core.draws import seeded
from concepts_cli.core.grouping import TINY, groups, number_of_kinds, of_others
from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import image_errors
from concepts_cli.core.optimizing import deviation
from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel

CANDIDATE_STEPS, CANDIDATE_RATE = 32, 0.2  # of AdamW, for each candidate; in deviations of the table; rates fall to 0
WORD_STEPS, WORD_RATE = 18, 0.2  # of AdamW, for the words of groups
NOISIER = (0.5, 1.0)  # the part of the process in which words decide what a picture shows
LEVELS = 6  # noise levels in it, at each of which an image's error is measured once
MANY, LISTED, COARSE = 64, 24, (1, 4)  # of more words than MANY, all but LISTED are measured at these levels only
RIVALS, MORE = 3, 4  # an image is measured again, up to MORE times, until its best word is surely ahead of its rivals
SURE = 3.0  # by so many standard errors
FEW = 64  # landmarks, or eight per concept
ROWS = 64  # of a model call
SCALE = 1024.0  # of the loss: AdamW doesn't mind, and half precision keeps small gradients

Words = dict[str, Tensor]  # by text encoder, (W, D) each, or (W, V, D) for words of V vectors


@dataclass(frozen=True)
class Start:
    """Where training begins: K words, and which of them is each image's, (N,)."""

    words: Words
    owners: Tensor

    def __len__(self) -> int:
        return len(next(iter(self.words.values())))

    def raw_weights(self, constraint: str, initial: float) -> Tensor:
        """Raw weights (N, K) of an image's own word and of the others.

        With `softmax` its own has about 0.8 of the weight for K = 5, which training can still move; without a
        constraint it has `initial`, and the others 0.
        """
        return F.one_hot(self.owners, len(self)).float() * (3.0 if constraint == "softmax" else initial)


class ImageStart:
    """Finds a `Start`. `steps()` does the work, a part at a time; `result` is there once they are done."""

    def __init__(
        self,
        model: DiffusionModel,
        latents: Latents,
        count: int | None,
        *,
        at_most: int = 12,
        sentences: Sequence[str],
        sentences_of: Sequence[range] = (),
        restarts: int = 3,
        vectors: int = 1,
        where: str = "input",
        rows: int = ROWS,
        seed: int = 0,
    ):
        """`sentences` are templates with one `{}`, of which each image may have its own (`sentences_of`); `restarts`
        words are learned from each landmark; `rows` is the most of a model call, which changes no result. Without a
        `count` the images tell it: from 2 to `at_most`. Raises UcdError for fewer images than concepts.
        """
        if len(latents) < (count or 2):
            hint = f"add images, or --set concepts.start=table --set concepts.count={count or 1}"
            raise UcdError(f"{len(latents)} images can't start {count or 2} concepts", hint)
        self.model, self.latents, self.count, self.restarts = model, latents, count, restarts
        self.at_most = min(count or at_most, len(latents))
        self.vectors, self.where, self.rows = vectors, where, rows
        self.sentences = tuple(sentences)
        self.sentences_of = list(sentences_of) or [range(len(sentences))] * len(latents)
        self.generator = seeded(seed, "start")
        self.landmarks = self._landmarks()
        self.chunks = torch.arange(len(self.landmarks) * restarts).split(ROWS)
        self.total = len(self.chunks) * CANDIDATE_STEPS + len(self.landmarks) + WORD_STEPS
        self.result: Start | None = None

    def _landmarks(self) -> Tensor:
        """(L,) all images, or a random part of many."""
        order = torch.randperm(len(self.latents), generator=self.generator)
        return order[: most_landmarks(self.count or 0)].sort().values

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
        self.result = Start({name: table.detach() for name, table in words.items()}, found.argmax(dim=1))

    def _likely_gains(self, words: Words, images: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean gains of all words (M, W), those of the likeliest by level (T, M, V), and which these are (M, V).

        Of many words, all but the likeliest are measured at the coarse levels alone, and never rank above those.
        """
        count = len(next(iter(words.values())))
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

    def _mean_words(self, count: int) -> Words:
        """Words at the mean of the encoder's token table, so that they differ only by what images teach."""
        means = {encoder: table.float().mean(dim=0) for encoder, table in self._typical.items()}
        shape = (count, *several(self.vectors), 1)
        return {encoder: mean.repeat(shape).requires_grad_() for encoder, mean in means.items()}

    @property
    def _typical(self) -> Mapping[str, Tensor]:
        return self.model.typical_vectors(self.where)

    def _teach(self, words: Words) -> list[str]:
        tokens = [f"<candidate{n}>" for n in range(len(next(iter(words.values()))))]
        self.model.set_concepts(tokens, words, self.where)
        return tokens

    def _train(self, words: Words, images: Tensor, owners: Tensor, steps: int, rate: float) -> Iterator[None]:
        """Train words on images (M,), each on those that it owns (M,): textual inversion of all of them at once.

        A step shows every image once, at times that cover the process evenly, each with one of its templates.
        """
        tokens, count = self._teach(words), len(images)
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
                prompts = [s.format(tokens[o]) for s, o in zip(chosen, owners[part].tolist(), strict=True)]
                different = list(dict.fromkeys(prompts))
                conditioning = self.model.encode_prompts(different)[[different.index(prompt) for prompt in prompts]]
                noisy, target = self._example(clean, noise, times[part])
                predicted = self.model.predict(noisy, times[part].to(self.model.device), conditioning)
                loss = image_errors(predicted, target, self._masks(images[part])).sum() / count
                (loss * SCALE).backward()
            optimizer.step()
            falling.step()
            optimizer.zero_grad()
            yield

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


def _in_doubt(gains: Tensor) -> bool:
    """Whether the best of R words, by gains (T, R) at T levels, is not SURE standard errors ahead of each other one."""
    best = gains.mean(dim=0).argmax()
    ahead = gains[:, best, None] - gains
    doubt = ahead.mean(dim=0) <= SURE * ahead.std(dim=0) / len(ahead) ** 0.5
    return bool(doubt[torch.arange(gains.shape[1]) != best].any())


def most_landmarks(count: int) -> int:
    """How many images words are learned from at most, for `count` concepts."""
    return max(FEW, 8 * count)
