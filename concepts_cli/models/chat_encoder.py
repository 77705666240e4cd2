"""A language model as a text encoder, which reads each prompt as a user's message."""

from __future__ import annotations

from concepts_cli.models.text import TextEncoder


class ChatEncoder(TextEncoder):
    """Qwen3, whose chat template surrounds every prompt."""

    most_tokens, word_marks = 512, ("Ġ", "")  # a space before a word
    thinks = True  # whether the template leaves room for the model to think before it answers

    def message(self, prompt: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": self.spelled(prompt)}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinks,
        )
