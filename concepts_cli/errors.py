"""The one exception for mistakes that the user can fix, and the wording that errors share."""

from __future__ import annotations

from collections.abc import Sequence


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


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "", otherwise: str | None = None) -> str:
    """The hint for a mistyped name: the closest known one or, if none is close, `otherwise` or all known ones."""
    from difflib import get_close_matches

    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {prefix}{near[0]}?"
    return f"known: {', '.join(known)}" if otherwise is None else otherwise


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
