"""What all families share whose prompts T5 reads (Raffel et al., JMLR 2020).

Shapes: P prompts, T tokens, D embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from concepts_cli.models import SOLE_ENCODER
from concepts_cli.models.conditioning import Tokens
from concepts_cli.models.scheduled import Scheduled
from concepts_cli.models.text import TextEncoder

WORD = re.compile(r"(<[^<>]+>)")  # as concepts are written


class T5Encoder(TextEncoder):
    """T5's encoder. It is given prompts in lower case, learned words excepted, as in the pipelines of diffusers."""

    word_marks = ("▁", "")  # a space before a word
    _learned: frozenset[str] = frozenset()

    def set_concepts(self, tokens: Sequence[str], embeddings: Tensor) -> None:
        self._learned = frozenset(tokens)
        super().set_concepts(tokens, embeddings)

    def spelled(self, text: str) -> str:
        parts = (part if part in self._learned else part.lower() for part in WORD.split(text))
        return super().spelled("".join(parts))

    def whole_words(self) -> dict[str, int]:
        return {word: row for word, row in super().whole_words().items() if word.islower()}

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What T5 makes of tokens (P, T), of which it reads those that `mask` (P, T) has: (P, T, D)."""
        dtype = self.table.dtype
        left_out = (1 - mask.to(self.table.device, dtype)) * torch.finfo(dtype).min
        return self.encoder(ids, attention_mask=left_out[:, None, None])[0]  # a whole mask: T5 would look into another


class T5Diffusion(Scheduled):
    """A family adds `text_class`, which says how many tokens its network reads."""

    is_causal = False
    encoders: ClassVar = {SOLE_ENCODER: ""}
    text: T5Encoder

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        ids, mask = self.text.tokenize_with_mask(prompts)
        return Tokens({SOLE_ENCODER: ids, "mask": mask})
