"""A text encoder of the transformers library with its tokenizer, and the words that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from concepts_cli.errors import UcdError
from concepts_cli.models.learned_tokens import LearnedTokens


class TextEncoder:
    """A frozen text encoder; a family may hold several. Shapes: P prompts, T tokens, V words, D width."""

    most_tokens: int | None = None  # that the network reads; None: as many as the encoder does
    word_marks: ClassVar[tuple[str, str]] = ("", "</w>")  # before and after a whole word in the vocabulary: CLIP's

    def __init__(self, tokenizer: Any, encoder: Any, model_name: str):
        """Raises UcdError for a tokenizer whose files are missing."""
        self.tokenizer, self.encoder = tokenizer, encoder
        table = encoder.get_input_embeddings()
        # A table may have spare rows; but if files are missing, transformers makes an empty tokenizer.
        if not table.num_embeddings / 2 <= len(tokenizer) <= table.num_embeddings:
            raise UcdError(
                f"the tokenizer of {model_name} knows {len(tokenizer)} tokens, its text encoder {table.num_embeddings}",
                "its tokenizer/ lacks tokenizer.json, or vocab.json and merges.txt: restore or download them again",
            )
        most = self.most_tokens or encoder.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, most)
        self._tokens = LearnedTokens(table)
        self._spelled: dict[str, str] = {}  # a learned word of several tokens -> these tokens
        encoder.set_input_embeddings(self._tokens)

    @property
    def table(self) -> Tensor:
        """The frozen word embeddings (V, D)."""
        return self._tokens.table.weight

    @property
    def device(self) -> torch.device:
        """Where token ids go: where the encoder is, or was before `unload`."""
        return self._tokens.device

    @property
    def max_tokens(self) -> int:
        return self.tokenizer.model_max_length

    def set_concepts(self, tokens: Sequence[str], embeddings: Tensor) -> None:
        """Make `tokens` stand for the rows of `embeddings`, (K, D) or (K, V, D), from now on; gradients flow to them.

        A word with V vectors is V tokens to the encoder, named as diffusers names them: `<t1>`, `<t1>_1`, ... Raises
        UcdError for a word that the vocabulary already has.
        """
        known = set(self.tokenizer.get_vocab()) - set(self.tokenizer.get_added_vocab())
        if taken := known.union(self.tokenizer.all_special_tokens).intersection(tokens):
            raise UcdError(
                f"the model's vocabulary already has a word {sorted(taken)[0]!r}", "give the concepts other names"
            )
        others = range(1, embeddings.shape[1] if embeddings.ndim == 3 else 1)
        spelled = {token: [token, *(f"{token}_{n}" for n in others)] for token in tokens}
        every = [part for parts in spelled.values() for part in parts]
        self._spelled = {token: "".join(parts) for token, parts in spelled.items()} if others else {}
        self.tokenizer.add_tokens(every)
        self._tokens.learn(self.tokenizer.convert_tokens_to_ids(every), embeddings)

    def spelled(self, text: str) -> str:
        """The text with every learned word as the tokens that it is to the encoder."""
        for token, parts in self._spelled.items():
            text = text.replace(token, parts)
        return text

    def message(self, prompt: str) -> str:
        """What the encoder is given for a prompt."""
        return self.spelled(prompt)

    def tokenize_with_mask(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, and 1 where they are not padding, (P, T) each, on the encoder's device; a long prompt is cut at T
        tokens.
        """
        batch = self.tokenizer(
            list(map(self.message, prompts)),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenize_with_mask(prompts)[0]

    def learned_rows(self, ids: Tensor) -> Tensor:
        """Which row of all concepts' vectors each token is, (P, T), or -1."""
        return self._tokens.rows(ids)

    def pieces(self, text: str) -> list[int]:
        """The token ids of a text by itself, without start, end and padding."""
        return self.tokenizer(self.spelled(text), add_special_tokens=False).input_ids

    def is_truncated(self, prompt: str) -> bool:
        return len(self.tokenizer(self.message(prompt)).input_ids) > self.max_tokens

    def positions(self, prompt: str, text: str) -> list[int]:
        """Which of the T tokens of `prompt` (0 is the start token) belong to an occurrence of `text`."""
        ids = self.tokenize([prompt])[0].tolist()
        for part in (self.pieces(text), self.pieces(f" {text}")):  # some vocabularies have a space before a word
            starts = [i for i in range(len(ids) - len(part) + 1) if part and ids[i : i + len(part)] == part]
            if starts:
                return sorted({start + i for start in starts for i in range(len(part))})
        return []

    def whole_words(self) -> dict[str, int]:
        """The tokens that are whole words, with their rows of the table."""
        before, after = self.word_marks
        added = set(self.tokenizer.get_added_vocab())
        words: dict[str, int] = {}
        for token, row in sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1]):
            word = token.removeprefix(before).removesuffix(after)
            if word != token and token not in added and len(word) > 1 and word.isalpha():
                words[word] = row
        return words

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass, unless dropout would then change the output."""
        config = self.encoder.config
        if not any(getattr(config, name, 0) for name in ("attention_dropout", "dropout_rate")):
            self.encoder.gradient_checkpointing_enable({"use_reentrant": False})
            self.encoder.train()  # transformers checkpoints only in training mode; without dropout, it is the same

    def unload(self) -> None:
        """Free the encoder's weights: it can tokenize from now on, and no longer encode."""
        self.encoder.to("meta")

    def __call__(self, input_ids: Tensor) -> Tensor:  # (P, T) -> (P, T, D)
        return self.encoder(input_ids)[0]


def check_pieces(word: str, pieces: Sequence[int], vectors: int = 1) -> None:
    """Raise UcdError for a word of more tokens than the concept has vectors that start from it, or none."""
    if not 0 < len(pieces) <= vectors:
        hint = f"choose words of at most {vectors} tokens" if vectors > 1 else "choose words that are a single token"
        raise UcdError(f"concepts.initial: {word!r} is {len(pieces)} tokens of this model", hint)


def used_tokens(mask: Tensor) -> int:
    """How many tokens are enough for all prompts of a mask (P, T); prompts are short, and the others are padding."""
    return int(mask.any(dim=0).nonzero().max()) + 1


def freeze(modules: Sequence[torch.nn.Module], device: torch.device) -> None:
    """Move modules to a device, without gradients and in evaluation mode; convolutions as CUDA computes them."""
    for module in modules:
        module.to(device).requires_grad_(False).eval()
        if device.type == "cuda":
            module.to(memory_format=torch.channels_last)
