"""The interface of a model. A family is a class that implements it; everything else is written once.

Shapes: B batch, P prompts, K concepts, T tokens, V words, D embedding width, C h w latents, H W pixels. Times are in
the unit of the family's `noise`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.noise import Noise

SENTENCE = "a photo of a {}"  # where words are read whose states concepts at the output start from


@dataclass(frozen=True)
class Selection:
    """Which attention counts; empty and None mean all."""

    layers: tuple[str, ...] = ()  # parts of layers' names
    resolutions: tuple[int, ...] = ()  # longer side of a layer's attention maps
    heads: tuple[int, ...] = ()  # from 0, within each layer
    timesteps: tuple[float, float] | None = None  # first and last of the model's (0 to 999)
    daam: bool = False  # leave out the layers that the package daam leaves out

    def takes(self, layer: str, places: tuple[int, int], timestep: float) -> bool:
        return (
            (not self.layers or any(part in layer for part in self.layers))
            and (not self.resolutions or max(places) in self.resolutions)
            and self.takes_step(timestep)
        )

    def takes_step(self, timestep: float) -> bool:
        return self.timesteps is None or self.timesteps[0] <= timestep <= self.timesteps[1]


EVERYTHING = Selection()


def no_such_layers(layers: Sequence[str], heads: int, others: str = "") -> UcdError:
    """The error for a selection that matches none of the layers, which it lists. `others` ends the hint."""
    return UcdError(
        "no layer of the model matches these layers, resolutions and heads",
        f"it has {', '.join(layers)}, each with its resolution, and up to {heads} heads{others}",
    )


class AttentionRecord(Protocol):
    """The attention of a block of `predict` calls."""

    def maps(self, size: tuple[int, int] | None = None) -> Tensor:
        """The mean attention of every place to every token, (B, T, h, w), at `size`, by default the latents'.

        Raises UcdError if the selection matches no call.
        """


class AttentionProbe(Protocol):
    """Records a model's attention to its prompt, and changes no output."""

    of_words: bool  # whether a word is mapped by its own tokens alone, even if later ones have read it

    def record(
        self, *, rows: slice | Sequence[int] = slice(None), selection: Selection = EVERYTHING
    ) -> AbstractContextManager[AttentionRecord]:
        """Record within a `with` block. `rows` selects rows of each `predict` call's batch.

        Raises UcdError, which lists the layers, for a selection that matches none.
        """


class Sampler(Protocol):
    """One way from noise to an image, for one batch."""

    takes_eta: bool
    follows_process: bool  # whether its latents are those of the model's `noise.add`, unscaled

    def times(self, num_steps: int, device: torch.device) -> Tensor:
        """The times of the predictions from noise to clean, (S,); some samplers predict more than once per step."""

    def ascent(self, num_steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """For a deterministic sampler, the times (from, to) of its steps backwards, from clean to noise, () each."""

    def start(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, C, h, w) as the sampler's first latents; called after `times`."""

    def model_input(self, latents: Tensor, time: Tensor) -> Tensor:
        """The latents (B, C, h, w) as the model expects them at `time`."""

    def step(
        self,
        prediction: Tensor,
        time: Tensor,
        latents: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
        eta: float = 0,
    ) -> Tensor:
        """The next latents (B, C, h, w). `generators`, one per image, are for samplers that add noise on the way."""


class DiffusionModel(ABC):
    """A frozen text-to-image model. All its outputs are float32, whatever its own `dtype`."""

    name: str  # as passed to `load_model`
    device: torch.device
    dtype: torch.dtype  # of the weights
    noise: Noise

    @classmethod
    @abstractmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """The model in a folder or on the hub (`source`). May raise OSError, ValueError, KeyError or RuntimeError."""

    @classmethod
    def skeleton(cls, source: str, *, name: str, revision: str | None, dtype: torch.dtype) -> Self:
        """The model without its weights, on the meta device: by its configuration alone. Token ids are on the CPU.

        Raises UcdError for a family that is not known well enough for that.
        """
        raise UcdError(f"what {name} takes can't be told from its configuration")

    def parts(self) -> Mapping[str, list[nn.Module]]:
        """The modules that hold its weights: those that `text`, `images` and the `network` need."""
        return {}

    # ---- text

    tokenizers: tuple[str, ...] = ("tokenizer",)  # their folders in the model's own
    # Tools that load this family's embeddings -> the key of each text encoder in their files; TOKEN is the word.
    tools: ClassVar[Mapping[str, Mapping[str, str]]] = MappingProxyType({})
    is_causal: bool  # whether a token reads only those before it
    places: tuple[str, ...] = ("input",)  # where concepts may be: before the text encoders, or after them (`output`)
    where: str = "input"  # the place of the present concepts
    max_tokens: int  # T

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, Tensor]:
        """The frozen word embeddings (V, D) by text encoder.

        The names are those in a run's files and, if there are several, in other tools' files, such as `clip_l`. An only
        one is called `SOLE_ENCODER`.
        """

    @abstractmethod
    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor], where: str = "input") -> None:
        """Make K `tokens` stand for the rows of `embeddings` in every later prompt: by text encoder (K, D), or
        (K, V, D) for concepts of V vectors, each of which is a token to the encoder. They take the place of a word's
        vector before the text encoder, or, `where` that is one of `places`, of its state after it.

        Nothing is copied: gradients flow to the tensors, and later changes to them take effect. Raises UcdError for a
        word that the vocabulary already has.
        """

    def typical_vectors(self, where: str) -> Mapping[str, Tensor]:
        """What vectors at this place look like, (M, D) by text encoder: the table, or states of words."""
        return self.tables

    def word_vectors(self, word: str, where: str) -> Mapping[str, Tensor]:
        """The vectors of a word's tokens at this place, by text encoder, one per piece."""
        return {encoder: self.tables[encoder][pieces] for encoder, pieces in self.pieces(word).items()}

    def keep_only(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Free what only other prompts would need. A concept at the `output` may take another's place in them."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """P rows of tokens, all of the same length; a long prompt is cut."""

    @abstractmethod
    def encode(self, tokens: Tokens) -> Conditioning:
        """P rows of conditioning from P rows of tokens, learned words included."""

    @abstractmethod
    def pieces(self, text: str) -> Mapping[str, list[int]]:
        """The token ids of a text by itself, by text encoder: rows of its table."""

    @abstractmethod
    def whole_words(self) -> Mapping[str, int]:
        """The words that are a single token of the first text encoder, with their rows of its table."""

    @abstractmethod
    def positions(self, prompt: str, text: str) -> list[int]:
        """Which of the T tokens of `prompt` belong to an occurrence of `text`, as the attention probe counts them."""

    @abstractmethod
    def is_truncated(self, prompt: str) -> bool:
        """Whether a text encoder sees only the beginning of `prompt`."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return self.encode(self.tokenize(prompts))

    # ---- images

    resolution: int  # side of the images that the model was trained on, in pixels
    size_multiple: int  # height and width must be multiples of it, in pixels

    def check_size(self, height: int | None, width: int | None) -> None:
        """Raise UcdError for an image size that the model can't make; None is its native one."""
        height, width = height or self.resolution, width or self.resolution
        if height % self.size_multiple or width % self.size_multiple:
            hint = f"it needs multiples of {self.size_multiple}"
            raise UcdError(f"{self.name} can't make images of {height} x {width} pixels", hint)

    @abstractmethod
    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of an image of `height` x `width` px, by default the model's native size."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [-1, 1] -> mean and standard deviation (B, C, h, w) of their latents."""

    def forget_images(self) -> None:  # noqa: B027
        """Free what only `encode_images` and `decode` need; they can't be called from now on."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pixels (B, 3, H, W) in [0, 1]."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the image encoder: models that share it share their latents."""

    # ---- the network

    attention: AttentionProbe | None = None
    samplers: tuple[str, ...]  # the family's, by name; the first is deterministic, and undoes an inversion

    @classmethod
    def sampler_name(cls, name: str | None) -> str:
        """The first of `samplers` for None, otherwise `name`. Raises UcdError if it is not among them."""
        if name is None:
            return cls.samplers[0]
        if name not in cls.samplers:
            raise UcdError(f"no scheduler {name!r}", did_you_mean(name, cls.samplers))
        return name

    @abstractmethod
    def sampler(self, name: str | None = None, *, size: tuple[int, int] | None = None) -> Sampler:
        """A fresh sampler, by default the first of `samplers`, for latents of this height and width, by default the
        native ones: some schedules depend on it. Raises UcdError for an unknown name.
        """

    @abstractmethod
    def predict(self, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """The model's prediction, as `noise.prediction` says, from noisy latents (B, C, h, w) at times (B,) or (): (B,
        C, h, w).
        """

    @abstractmethod
    def compile(self) -> None:
        """Compile what `predict` runs with torch.compile."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Keep fewer activations for the backward pass and recompute the rest. Nothing else changes."""

    def differs_from(self, other: DiffusionModel) -> str | None:
        """Why this model's scores can't be added to another's, or None if they can. Both need the same latent space,
        noise schedule and target.
        """
        if not self.noise.same_schedule(other.noise):
            return "they have different noise schedules"
        if self.noise.prediction != other.noise.prediction:
            return f"one predicts {self.noise.prediction}, the other {other.noise.prediction}"
        if self.fingerprint != other.fingerprint:
            return "they have different latent spaces"
        return None
