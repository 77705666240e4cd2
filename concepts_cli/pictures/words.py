"""Words like `<t3>` in what a user writes."""

from __future__ import annotations

import re

from concepts_cli.errors import UcdError
from concepts_cli.runs.run import Run

NAME = r"[tT]\d+"  # a concept, known or not, even without brackets


def concept_words(prompt: str) -> list[tuple[str, str]]:
    """The run and the name in every word like `<t9>` or `<other:t9>`; the run is empty in the first."""
    return re.findall(r"<(?:([^<>]+):)?([\w-]+)>", prompt)


def check_words(run: Run, prompt: str) -> None:
    """Raise UcdError for a word that the run did not learn, such as `<t9>` or `<other:t1>`, and for invalid text."""
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise UcdError(f"{prompt!r} is not UTF-8 text", "write the prompt in UTF-8")
    for other, name in concept_words(prompt):
        if other:
            raise UcdError(
                f"a prompt can't mention <{other}:{name}>, a concept of another run",
                f"give each its own weight: ucd compose t1 {other}:{name}",
            )
        run.token(name)
