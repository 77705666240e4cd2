"""The weights of new images, with frozen concepts.

With the words frozen, the scores don't depend on the weights, so the loss of an image (eq. 10) is a quadratic function
of its K weights. The model computes the K + 1 scores of S draws of noise and timestep once, without gradient. They
reduce to a K x K matrix and K numbers, which give the best weights without calling the model again.

Shapes: K concepts, S draws (steps), M sentences, C H W latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concepts_cli.core import ROWS, STEPS
from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import encode, mask_of
from concepts_cli.data.captions import sentence
from concepts_cli.data.images import ImageRecord
from concepts_cli.errors import UcdError
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.recipe import Recipe

ITERATIONS = 500  # of projected gradient descent on the simplex


@dataclass(frozen=True)
class Encoded:
    """An image's concept weights (K,), its loss with them (eq. 10), and its loss without any concept."""

    path: str
    sha256: str
    weights: tuple[float, ...]
    loss: float
    loss_without: float

    @property
    def fit(self) -> float:
        """The share of the loss that the concepts take away; negative for an image that they explain worse."""
        return 1 - self.loss / self.loss_without if self.loss_without else 0.0


@dataclass(frozen=True)
class Quadratic:
    """Eq. 10 of one image as a function of its weights w: `w' gram w - 2 w' cross + base`, in float64.

    Shapes: gram (K, K), cross (K,), base (). `without` () is the loss of the unconditional score, which equals `base`
    under eq. 11.
    """

    gram: Tensor
    cross: Tensor
    base: Tensor
    without: Tensor

    def loss(self, weights: Tensor) -> float:  # (K,)
        return float(weights @ self.gram @ weights - 2 * weights @ self.cross + self.base)

    def best_weights(self, constraint: str, initial: float) -> Tensor:
        """The weights (K,) with the smallest loss.

        `softmax` keeps them on the simplex, the paper's constraint of eq. 10. `none` allows any weights; of equally
        good ones, as for two identical concepts, it takes those nearest to `initial`, where gradient descent from there
        ends.
        """
        if constraint == "softmax":
            return _on_simplex(self.gram, self.cross)
        start = torch.full_like(self.cross, initial)
        return start + torch.linalg.pinv(self.gram, rtol=1e-6, hermitian=True) @ (self.cross - self.gram @ start)


@torch.no_grad()
def encode_records(
    model: DiffusionModel,
    records: Sequence[ImageRecord],
    *,
    recipe: Recipe,
    tokens: Sequence[str],
    steps: int = STEPS,
    seed: int = 0,
    rows: int = ROWS,
) -> Iterator[Encoded]:
    """Find the weights of each image with `steps` draws; resolution, sentences and constraint are the recipe's.

    An image with a caption has that as its only sentence. An image's draws depend only on the seed and the hash of its
    file, and each model call has at most `rows` rows, all of one image. So an image's weights are bit-identical
    whatever other images are encoded with it. Raises UcdError (exit status 1) for scores that are not finite.
    """
    sentences = recipe.concepts.templates()
    uncond = model.encode_prompts([""])
    # Per sentence, the unconditional row and one row per concept: M * (K + 1) rows.
    encoded = (model.encode_prompts([s.format(token) for token in tokens]) for s in sentences)
    conditioning = Conditioning.join(part for prompts in encoded for part in (uncond, prompts))
    rows_of = torch.arange(len(conditioning), device=model.device).unflatten(0, (len(sentences), -1))  # (M, K + 1)
    # Each draw has the same sentence for every image, so that weights differ only by what images show.
    order = torch.randperm(len(sentences), generator=seeded(seed, "encode"))
    chosen = rows_of[order[torch.arange(steps) % len(sentences)].to(model.device)]  # (S, K + 1)
    is_mean = recipe.weights.composition == "mean"
    resolution = recipe.data.resolution or model.resolution
    posteriors = encode(
        model, records, resolution=resolution, resize=recipe.data.resize, mirrored=False, batch_size=1
    )  # one at a time: in a batch, the other images would change the last digits
    for record, (mean, std) in zip(records, posteriors, strict=True):
        generator = seeded(seed, f"encode {record.sha256}")
        own, which = conditioning, chosen
        if record.caption:
            prompts = [sentence(record.caption).format(token) for token in tokens]
            own = Conditioning.join([uncond, model.encode_prompts(prompts)])
            which = torch.arange(len(own), device=model.device).expand(steps, -1)
        mask = mask_of(record, mean.shape, model, resolution, recipe.data.resize) if record.mask else None
        quadratic = _quadratic(model, mean[0, 0], std[0, 0], mask, own, which, generator, rows, is_mean)
        if not quadratic.gram.isfinite().all():
            raise UcdError(f"the model's scores of {record.path} are not finite", "--device cpu", exit_code=1)
        weights = quadratic.best_weights(recipe.weights.constraint, recipe.weights.initial)
        yield Encoded(
            record.path, record.sha256, tuple(weights.tolist()), quadratic.loss(weights), float(quadratic.without)
        )


def _quadratic(
    model: DiffusionModel,
    mean: Tensor,
    std: Tensor,
    mask: Tensor | None,
    conditioning: Conditioning,
    chosen: Tensor,
    generator: torch.Generator,
    rows: int,
    is_mean: bool,
) -> Quadratic:
    """Eq. 10 of one image, over draws of latents, noise and timesteps that cover the schedule evenly.

    The composition is eq. 11, or with `is_mean` the weighted sum of the conditional scores alone.

    Shapes: mean and std (C, H, W) of its latents, mask (1, H, W) of what counts, chosen (S, K + 1) rows of the
    conditioning.
    """
    steps, calls = chosen.shape
    clean = mean + std * torch.randn(steps, *mean.shape, generator=generator)  # (S, C, H, W)
    noise = torch.randn(clean.shape, generator=generator)
    share = (torch.arange(steps) + torch.rand(steps, generator=generator)) / steps
    clean, noise, times = (draw.to(model.device) for draw in (clean, noise, model.noise.time(share)))
    noisy, target = model.noise.example(clean, noise, times)

    gram, cross, base, without = torch.zeros(4, dtype=torch.float64)
    for part in torch.arange(steps).split(max(1, rows // calls)):
        stacked, when = noisy[part].repeat_interleave(calls, dim=0), times[part].repeat_interleave(calls)
        pieces = zip(stacked.split(rows), when.split(rows), chosen[part].flatten().split(rows), strict=True)
        predicted = [model.predict(latents, time, conditioning[row]) for latents, time, row in pieces]
        scores = torch.cat(predicted).cpu().double()
        truth = target[part].cpu().double()
        if mask is not None:  # of the squares of what follows, those inside count, and their mean is eq. 10
            scores, truth = (each * (mask / mask.mean()).double().sqrt() for each in (scores, truth))
        scores = scores.unflatten(0, (-1, calls)).flatten(2)  # (s, K + 1, C H W)
        uncond, truth = scores[:, :1], truth.flatten(1)[:, None]
        start = torch.zeros_like(uncond) if is_mean else uncond
        added, residual = scores[:, 1:] - start, truth - start  # what each concept adds, and what they should add up to
        gram = gram + (added @ added.mT).sum(dim=0)
        cross = cross + (added @ residual.mT).sum(dim=0)[:, 0]
        base = base + residual.square().sum()
        without = without + (truth - uncond).square().sum()
    return Quadratic(*(total / noise.numel() for total in (gram, cross, base, without)))


def _on_simplex(gram: Tensor, cross: Tensor) -> Tensor:
    """Minimise `w' gram w - 2 w' cross` over w >= 0 with sum 1: FISTA (Beck & Teboulle, 2009) with restarts."""
    step = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)
    weights = ahead = torch.full_like(cross, 1 / len(cross))
    momentum = 1.0
    for _ in range(ITERATIONS):
        following = _project(ahead - step * (gram @ ahead - cross))
        if (ahead - following) @ (following - weights) > 0:
            momentum = 1.0  # it overshot (O'Donoghue & Candès, 2015)
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - weights)
        weights, momentum = following, next_momentum
    return weights


def _project(point: Tensor) -> Tensor:
    """The point of the simplex nearest to `point` (K,) (Duchi et al., 2008)."""
    descending = point.sort(descending=True).values
    excess = (descending.cumsum(dim=0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype)
    return (point - excess[(descending > excess).nonzero()[-1, 0]]).clamp(min=0)
