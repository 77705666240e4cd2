"""Concepts in what a user writes.

The one rule for all commands: `t1` is the concept, alone and in a text, with brackets or without. A name of one's own,
such as koala, is the concept alone, and needs its brackets in a text: `<koala>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from concepts_cli.errors import UcdError
from concepts_cli.runs.run import Run

NAME = r"[tT]\d+"  # a concept, known or not, even without brackets
CONCEPT = rf"(?:(?P<run>.+):)?(?P<name><[^<>]*>|{NAME})"  # `t9` and `<anything>` are concepts, known or not
BARE = re.compile(r"(?<![\w<:-])t\d+(?![\w>-])")  # in a text


def concept_words(prompt: str) -> list[tuple[str, str]]:
    """The run and the name in every word like `<t9>` or `<other:t9>`; the run is empty in the first."""
    return re.findall(r"<(?:([^<>]+):)?([\w-]+)>", prompt)


def is_concept(run: Run, text: str) -> bool:
    """Whether the whole text names a concept; `t9` does, whether the run has it or not."""
    return f"<{text.strip()}>" in run.tokens or re.fullmatch(CONCEPT, text.strip()) is not None


def named_tokens(run: Run, concepts: Sequence[str]) -> list[str]:
    """The tokens of `t1`, `<t1>`, `t1,t3` and `all`, each once. Raises UcdError for one that the run doesn't have."""
    names = (name.strip() for written in concepts for name in written.split(","))
    return list(dict.fromkeys(t for name in names for t in (run.tokens if name == "all" else (_token(run, name),))))


def bracketed(run: Run, text: str) -> str:
    """The text with brackets around each bare `t1`, as the model reads it.

    Raises UcdError for a word that the run did not learn, such as `t9` or `<other:t1>`, and for invalid text.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UcdError(f"{text!r} is not UTF-8 text", "write the prompt in UTF-8")
    text = BARE.sub(r"<\g<0>>", text)
    for other, name in concept_words(text):
        if other:
            raise UcdError(
                f"a prompt can't mention <{other}:{name}>, a concept of another run",
                f"give each its own weight: ucd compose t1 {other}:{name}",
            )
        run.token(name)
    return text


def sentence(run: Run, text: str) -> str:
    """The prompt that a text means: for a concept's name its own prompt, otherwise the text, `bracketed`."""
    return run.recipe.concepts.prompt_of(_token(run, text)) if is_concept(run, text) else bracketed(run, text)


def _token(run: Run, concept: str) -> str:
    other, _, name = concept.rpartition(":")
    if other:
        raise UcdError(f"{concept!r} is a concept of another run", f"use that run: --run {other} --concept {name}")
    return run.token(concept)
