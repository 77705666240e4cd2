"""The one exception for mistakes that the user can fix, and the wording that errors share."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters, which move the cursor or worse; those that reverse the direction of text; half characters.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UcdError(Exception):
    """A mistake that the user can fix: shown as one line and a hint, never as a traceback.

    `message` says what is wrong and where, `hint` how to fix it. `exit_code` is 2 for wrong usage or a wrong recipe,
    and 1 for a run that failed. Any other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int = 2):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")  # torch's, CUDA's, Apple's


def memory_error(error: BaseException, hint: str | None = None) -> UcdError | None:
    """The mistake behind an error for memory that ran out, of the computer or of a GPU; None for other errors."""
    of_torch = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    if not of_torch and not isinstance(error, MemoryError):
        return None
    where = "the GPU" if of_torch and "allocator" not in str(error).lower() else "this computer"
    return UcdError(f"this does not fit into the memory of {where}", hint, exit_code=1)


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "", otherwise: str | None = None) -> str:
    """The hint for a mistyped name: the closest known one or, if none is close, `otherwise` or all known ones."""
    from difflib import get_close_matches

    name = name[:100]  # difflib takes quadratic time
    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {prefix}{near[0]}?"
    return f"known: {', '.join(known)}" if otherwise is None else otherwise


def text_of(value: object) -> str:
    """The value as text, also a whole number of more digits than Python converts."""
    try:
        return str(value)
    except ValueError:
        return "a very long number"


def printable(text: object) -> str:
    """The text with each character that a terminal would obey, such as an escape, written as Python writes it."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text_of(text))


def shown(value: object, most: int = 60) -> str:
    """The value as messages show it: printable, and cut in the middle if it is long."""
    text = text_of(value)
    cut = f"{text[: most * 2 // 3]}…{text[len(text) - most // 3 :]}" if len(text) > most else text
    return printable(cut)


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
