"""Captions as prompts in which a concept has a place: 'a photo of {} on a table'."""

from __future__ import annotations

from concepts_cli.errors import UcdError, printable

MARK = "{}"
MOST = 2000  # characters


def text_of_cell(cell: object) -> str | None:
    """The caption in a table's cell, of several the first; None if there is none."""
    texts = cell if isinstance(cell, list) else [cell]
    return next((text for text in texts if isinstance(text, str) and text.strip()), None)


def as_caption(text: str, where: str) -> str:
    """The text in one line, with a `{}` for the concept: in front, if it has none.

    Raises UcdError, which names `where`, for one that is empty or too long.
    """
    line = " ".join(text.split())
    if not line or len(line) > MOST:
        problem = "is empty" if not line else f"has {len(line):,} characters, and at most {MOST:,} make sense"
        raise UcdError(f"the caption of {printable(where)} {problem}", "write 'a photo of {} on a table'")
    return line if MARK in line else f"{MARK}, {line}"


def sentence(caption: str) -> str:
    """A caption as a template for `str.format`: only `{}` stands for something, other braces are text."""
    return caption.replace("{", "{{").replace("}", "}}").replace("{{}}", "{0}")
