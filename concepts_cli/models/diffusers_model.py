"""What all families share that are a pipeline of diffusers: how it is loaded, its text encoders, and one network.

Shapes: P prompts, T tokens, D embedding width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from concepts_cli.errors import UcdError
from concepts_cli.models import configuration_of, is_single_file, read_index
from concepts_cli.models.conditioning import Conditioning, Tokens
from concepts_cli.models.interface import SENTENCE, DiffusionModel
from concepts_cli.models.kept_texts import KeptTexts
from concepts_cli.models.skeletons import part_without_weights
from concepts_cli.models.text import TextEncoder, freeze

TEXTS = 16  # prompts in a call of the text encoders
TYPICAL = 256  # words to know the encoders' states by


class DiffusersModel(DiffusionModel):
    """A frozen pipeline of diffusers; a family adds `noise`, its images, `read`, `predict` and its samplers."""

    is_causal = True
    places: tuple[str, ...] = ("input", "output")
    pipeline_class: ClassVar[str]  # of diffusers
    network_name: ClassVar[str]  # the network's, among the pipeline's parts
    encoders: ClassVar[Mapping[str, str]]  # text encoders by the names of their embeddings -> their parts' suffix
    text_class: ClassVar[type[TextEncoder]] = TextEncoder
    left_out: ClassVar[Mapping[str, Any]]  # parts of the pipeline that are not loaded

    def __init__(self, pipeline: Any, name: str, *, device: torch.device, dtype: torch.dtype):
        """Raises UcdError for a pipeline without one of its text encoders."""
        self.name, self.device, self.dtype = name, device, dtype
        self.pipeline, self.scheduler_config = pipeline, pipeline.scheduler.config
        self.network = getattr(pipeline, self.network_name)
        parts = {encoder: getattr(pipeline, f"text_encoder{suffix}") for encoder, suffix in self.encoders.items()}
        if None in parts.values():
            raise UcdError(f"{name} has no text encoder", "give a model with all of its parts")
        freeze((*parts.values(), self.network), device)
        self.texts = {
            encoder: self.text_class(getattr(pipeline, f"tokenizer{suffix}"), parts[encoder], name)
            for encoder, suffix in self.encoders.items()
        }
        self.text = next(iter(self.texts.values()))
        self.max_tokens = self.text.max_tokens
        self._outputs: list[Tensor] = []  # the concepts' vectors by text encoder, if they come after them
        self._kept: KeptTexts | None = None
        self._typical: dict[str, Tensor] = {}

    @classmethod
    def load(cls, source: str, *, name: str, revision: str | None, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a folder, hub id or single file. Raises what diffusers raises if it is incomplete."""
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        diffusers_class = getattr(diffusers, cls.pipeline_class, None)
        if diffusers_class is None:
            raise UcdError(f"{name} needs a newer diffusers than {diffusers.__version__}", "pip install -U diffusers")
        if is_single_file(source):
            pipeline = diffusers_class.from_single_file(
                source, config=configuration_of(source), local_files_only=True, torch_dtype=dtype, **cls.left_out
            )
            return cls(pipeline, name, device=device, dtype=dtype)
        release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
        pipeline = diffusers_class.from_pretrained(
            source,
            revision=revision,
            **{"dtype" if release >= (0, 40) else "torch_dtype": dtype},
            use_safetensors=True,  # nothing is unpickled
            **cls.left_out,
        )
        return cls(pipeline, name, device=device, dtype=dtype)

    @classmethod
    def skeleton(cls, source: str, *, name: str, revision: str | None, dtype: torch.dtype) -> Self:
        import diffusers

        index = read_index(name, revision=revision)
        settings = {key: value for key, value in index.items() if key[0] != "_" and not isinstance(value, list)}
        parts = {
            part: part_without_weights(source, part, *kind, revision=revision, dtype=dtype)
            for part, kind in index.items()
            if isinstance(kind, list) and part not in cls.left_out and None not in kind
        }
        pipeline = getattr(diffusers, cls.pipeline_class)(**settings | parts | dict(cls.left_out))
        return cls(pipeline, name, device=torch.device("meta"), dtype=dtype)

    def parts(self) -> Mapping[str, list[nn.Module]]:
        texts: list[nn.Module] = [text.encoder for text in self.texts.values()]
        return {"text": texts, "images": [], "network": [self.network]}

    @property
    def tokenizer(self) -> Any:
        """Of the first text encoder."""
        return self.text.tokenizer

    @property
    def text_encoder(self) -> Any:
        """The first text encoder."""
        return self.text.encoder

    # ---- text

    @property
    def tables(self) -> Mapping[str, Tensor]:
        return {encoder: text.table for encoder, text in self.texts.items()}

    def set_concepts(self, tokens: Sequence[str], embeddings: Mapping[str, Tensor], where: str = "input") -> None:
        self.where = where
        self._outputs = [embeddings[encoder] for encoder in self.texts] if where == "output" else []
        for encoder, text in self.texts.items():  # concepts at the output are zeros at the input, as in OneTrainer
            text.set_concepts(tokens, torch.zeros_like(embeddings[encoder]) if self._outputs else embeddings[encoder])

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        return Tokens({encoder: text.tokenize(prompts) for encoder, text in self.texts.items()})

    @abstractmethod
    def read(self, tokens: Tokens) -> Conditioning:
        """What the text encoders make of prompts, with `hidden_states` (P, T, sum of D)."""

    def encode(self, tokens: Tokens) -> Conditioning:
        if not self._outputs:
            return self.read(tokens)
        rows = self._learned_rows(tokens)
        with torch.no_grad():
            conditioning = self._frozen(tokens)
        hidden = conditioning.tensors["hidden_states"]
        learned = torch.cat([table.flatten(0, -2) for table in self._outputs], dim=-1).to(hidden)
        hidden = torch.where((rows >= 0)[..., None].to(hidden.device), learned[rows.clamp(min=0)], hidden)
        return Conditioning(conditioning.tensors | {"hidden_states": hidden})

    def _frozen(self, tokens: Tokens) -> Conditioning:
        """The conditioning without concepts at the output."""
        if self._kept is None:
            return self.read(tokens)
        return self._kept.look_up(next(iter(tokens.tensors.values())), self._learned_rows(tokens) >= 0)

    def _learned_rows(self, tokens: Tokens) -> Tensor:  # (P, T)
        return self.text.learned_rows(next(iter(tokens.tensors.values())))

    @torch.no_grad()
    def keep_only(self, prompts: Sequence[str]) -> None:
        """Encode prompts of concepts at the output, and unload the text encoders."""
        tokens = self.tokenize(list(dict.fromkeys(prompts)))
        parts = torch.arange(len(tokens)).split(TEXTS)
        conditioning = Conditioning.join(self.read(tokens[part.to(self.device)]) for part in parts)
        self._kept = KeptTexts(next(iter(tokens.tensors.values())), self._learned_rows(tokens) >= 0, conditioning)
        for text in self.texts.values():
            text.unload()

    @torch.no_grad()
    def typical_vectors(self, where: str) -> Mapping[str, Tensor]:
        """At the output, the states of whole words from all over the vocabulary, the last token of each."""
        if where == "input":
            return self.tables
        if not self._typical:
            words = list(self.whole_words())
            found = [self.word_vectors(word, where) for word in words[:: max(1, len(words) // TYPICAL)]]
            self._typical = {encoder: torch.stack([each[encoder][-1] for each in found]) for encoder in self.texts}
        return self._typical

    @torch.no_grad()
    def word_vectors(self, word: str, where: str) -> Mapping[str, Tensor]:
        """At the output, the states of the word's tokens in a short sentence."""
        if where == "input":
            return super().word_vectors(word, where)
        prompt = SENTENCE.format(word)
        hidden = self._frozen(self.tokenize([prompt])).tensors["hidden_states"][0]  # (T, sum of D)
        states = hidden.split([text.table.shape[1] for text in self.texts.values()], dim=1)
        return {
            encoder: own[text.positions(prompt, word)[-len(text.pieces(word)) :]]
            for own, (encoder, text) in zip(states, self.texts.items(), strict=True)
        }

    def pieces(self, text: str) -> Mapping[str, list[int]]:
        return {encoder: own.pieces(text) for encoder, own in self.texts.items()}

    def whole_words(self) -> Mapping[str, int]:
        return self.text.whole_words()

    def positions(self, prompt: str, text: str) -> list[int]:
        return self.text.positions(prompt, text)

    def is_truncated(self, prompt: str) -> bool:
        return any(text.is_truncated(prompt) for text in self.texts.values())

    # ---- the network

    def compile(self) -> None:
        self.network.compile(dynamic=False)  # one shape per kind of call: a step's do not change

    def checkpoint_gradients(self) -> None:
        self.network.enable_gradient_checkpointing()
        for text in self.texts.values():
            text.checkpoint_gradients()
