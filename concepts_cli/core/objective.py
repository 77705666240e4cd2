"""The loss: the distance between the true noise and the concepts' prediction of it.

Shapes: B images, K concepts, C H W latents, S sentences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts
from concepts_cli.core.regularizers import regularization
from concepts_cli.core.scores import checkpointed_scores, compose, stacked_scores, weighted_sum
from concepts_cli.models.conditioning import Conditioning
from concepts_cli.models.device import to_device
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.recipe import RegularizerSettings


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass, with everything drawn for them."""

    rows: Tensor  # (B,) which images
    latents: Tensor  # (B, C, H, W), clean
    noise: Tensor  # (B, C, H, W)
    timesteps: Tensor  # (B,), in the unit of the model's noise
    sentences: Tensor  # (B, K) the template for each concept's word; always on the CPU, see `Objective.encode`
    choices: Tensor  # (B,) a random number in [0, 1)
    masks: Tensor | None = None  # (B, 1, H, W) how much each place counts; None: all of the image

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Batch:
        """All but the sentences on `device`."""
        tensors = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "sentences"}
        moved = {name: to_device(tensor, device) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **moved)

    def split(self, size: int) -> Iterator[Batch]:
        """Parts of at most `size` images."""
        return (Batch(*parts) for parts in zip(*(tensor.split(size) for tensor in self._tensors()), strict=True))

    def _tensors(self) -> list[Tensor]:
        tensors = (getattr(self, name) for name in self.__dataclass_fields__)
        return [tensor for tensor in tensors if tensor is not None]


def image_errors(predicted: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """The mean squared error of each image, (B,), over what is inside its mask (B, 1, H, W): eq. 10."""
    errors = (predicted - target).square()
    if masks is None:
        return errors.mean(dim=(1, 2, 3))
    return (errors * masks).mean(dim=(1, 2, 3)) / masks.mean(dim=(1, 2, 3))


class Objective(ABC):
    """A frozen model, the concepts to learn, and their loss. `sentences` are templates with one `{}` each."""

    def __init__(self, model: DiffusionModel, concepts: Concepts, tokens: Sequence[str], sentences: Sequence[str]):
        self.model, self.concepts = model, concepts.to(model.device)
        self.tokens, self.sentence_count = tuple(tokens), len(sentences)
        model.set_concepts(tokens, dict(self.concepts.embeddings.items()), concepts.where)
        self.prompts, where = model.tokenize([s.format(t) for s in sentences for t in tokens]).distinct()
        self.prompt_of = where.unflatten(0, (len(sentences), len(tokens))).cpu()  # (S, K) rows of `prompts`

    @abstractmethod
    def __call__(self, batch: Batch, raw_weights: Tensor) -> dict[str, Tensor]:
        """The named terms of the loss, () each, means over the batch; `raw_weights` (B, K) are its images' rows."""

    def noisy_and_target(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noisy latents and what the model should predict from them (eq. 10), (B, C, H, W) each."""
        return self.model.noise.example(batch.latents, batch.noise, batch.timesteps)

    def texts(self, sentences: Tensor, which: Tensor | None = None) -> Tensor:
        """The rows of `prompts` for concepts `which` (B, M), by default all, of images with `sentences` (B, K): (B, M),
        or (B, K). They are on the CPU, unless `which` is elsewhere.
        """
        texts = self.prompt_of[sentences, torch.arange(self.concepts.count)]
        return texts if which is None else to_device(texts, which.device).gather(1, which)

    def error(self, predicted: Tensor, target: Tensor, masks: Tensor | None) -> Tensor:
        """The mean squared error of a batch, ()."""
        return F.mse_loss(predicted, target) if masks is None else image_errors(predicted, target, masks).mean()

    def encode(self, index: Tensor) -> Conditioning:
        """The conditioning of rows (...) of `prompts`, flattened.

        Each distinct text is encoded once if `index` is on the CPU; elsewhere, to count them would wait for the device.
        """
        index = index.flatten()
        if index.device.type != "cpu":
            return self.model.encode(self.prompts[index])
        device = self.model.device
        different, where = (to_device(part, device) for part in index.unique(return_inverse=True))
        return self.model.encode(self.prompts[different])[where]


class ComposedLoss(Objective):
    """The paper's loss: all concepts explain every image together, by its weights (eq. 10 and 11)."""

    def __init__(
        self,
        model: DiffusionModel,
        concepts: Concepts,
        tokens: Sequence[str],
        sentences: Sequence[str],
        *,
        composition: str = "eq11",
        regularizers: RegularizerSettings | None = None,
        checkpointed: bool = False,
        per_image: int | None = None,
    ):
        """With `per_image`, only so many concepts are scored for an image in a step: see `strongest_and_one`."""
        super().__init__(model, concepts, tokens, sentences)
        self.per_image = per_image if per_image and per_image < concepts.count else None
        # Softmax weights sum to 1, so the unconditional score cancels in eq. 11.
        self.with_uncond = composition == "eq11" and concepts.constraint != "softmax"
        self.regularizers, self.checkpointed = regularizers or RegularizerSettings(), checkpointed
        with torch.no_grad():
            self.uncond = model.encode_prompts([""])

    def __call__(self, batch: Batch, raw_weights: Tensor) -> dict[str, Tensor]:
        model, weights = self.model, self.concepts.constrain(raw_weights)
        noisy, target = self.noisy_and_target(batch)
        which = None
        if self.per_image:
            which, weights = strongest_and_one(weights, self.per_image, batch.choices)
        index = self.texts(batch.sentences, which)
        if self.checkpointed:
            index = to_device(index, model.device)
            conditional = checkpointed_scores(model, noisy, batch.timesteps, self.prompts, index)
        else:
            conditional = stacked_scores(model, noisy, batch.timesteps, self.encode(index))
        if self.with_uncond:
            with torch.no_grad():
                uncond = model.predict(noisy, batch.timesteps, self.uncond.repeat(len(noisy)))
            composed = compose(uncond, conditional, weights)
        else:
            composed = weighted_sum(conditional, weights)
        terms = regularization(self.regularizers, conditional, weights, self.concepts.joint_embeddings)
        return {"mse": self.error(composed, target, batch.masks)} | terms


def strongest_and_one(weights: Tensor, count: int, choices: Tensor) -> tuple[Tensor, Tensor]:
    """The count - 1 concepts of each image with the largest weights, and one of the others, which stands for them all.

    That one is drawn with a chance in proportion to its weight, by which the weight is then divided: so the sum over
    concepts in eq. 11 and its gradient are right on average. (The loss is not, by that sum's variance.) Shapes: weights
    (B, K), choices (B,) in [0, 1) -> (B, count) which concepts, and their weights.
    """
    sizes = weights.detach().abs().clamp(min=torch.finfo(weights.dtype).tiny)
    strongest = sizes.topk(count - 1, dim=1).indices
    chances = sizes.scatter(1, strongest, 0)
    chances = chances / chances.sum(dim=1, keepdim=True)
    one = torch.searchsorted(chances.cumsum(dim=1), choices[:, None].to(chances.dtype), right=True)
    one = one.minimum(_last(chances))
    which = torch.cat([strongest, one], dim=1)
    shares = torch.ones_like(which, dtype=weights.dtype)
    shares[:, -1:] = chances.gather(1, one)
    return which, weights.gather(1, which) / shares


def _last(chances: Tensor) -> Tensor:
    """The last column with a chance, of each row, (B, 1): where rounding would lead beyond it."""
    places = torch.arange(chances.shape[1], device=chances.device)
    return (places * (chances > 0)).amax(dim=1, keepdim=True)


class InversionLoss(Objective):
    """Textual inversion (Gal et al., ICLR 2023): a single concept explains each image.

    `owners` (N,) says which; without it every draw takes a random concept, so that every word is learned from all
    images. These are the baselines of the paper's Table 1.
    """

    def __init__(
        self,
        model: DiffusionModel,
        concepts: Concepts,
        tokens: Sequence[str],
        sentences: Sequence[str],
        *,
        owners: Tensor | None = None,
    ):
        super().__init__(model, concepts, tokens, sentences)
        self.owners = None if owners is None else owners.to(model.device)

    def __call__(self, batch: Batch, raw_weights: Tensor) -> dict[str, Tensor]:
        anyone = (batch.choices * self.concepts.count).long()
        owners = anyone if self.owners is None else self.owners[batch.rows]
        index = self.texts(batch.sentences, owners[:, None])
        noisy, target = self.noisy_and_target(batch)
        predicted = self.model.predict(noisy, batch.timesteps, self.encode(index))
        return {"mse": self.error(predicted, target, batch.masks)}
