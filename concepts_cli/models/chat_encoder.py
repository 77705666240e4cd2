"""A language model as a text encoder, which reads each prompt as a user's message.

Shapes: P prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from concepts_cli.models.text import TextEncoder


class ChatEncoder(TextEncoder):
    """Qwen3, whose chat template surrounds every prompt."""

    most_tokens = 512
    thinks = True  # whether the template leaves room for the model to think before it answers

    def tokenize_with_mask(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, and 1 where they are not padding, (P, T) each."""
        batch = self.tokenizer(
            [self.spelled(self._message(prompt)) for prompt in prompts],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenize_with_mask(prompts)[0]

    def is_truncated(self, prompt: str) -> bool:
        return super().is_truncated(self._message(prompt))

    def whole_words(self) -> dict[str, int]:
        """The tokens that are a whole word with a space before it, which the vocabulary writes as Ġ."""
        added = set(self.tokenizer.get_added_vocab())
        rows = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        words = ((token.removeprefix("Ġ"), token, row) for token, row in rows if token not in added)
        return {word: row for word, token, row in words if word != token and len(word) > 1 and word.isalpha()}

    def _message(self, prompt: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinks,
        )
