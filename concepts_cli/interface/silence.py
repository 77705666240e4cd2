"""The output of a command that a program calls: it prints nothing, and raises errors."""

from __future__ import annotations

import warnings
from typing import NoReturn

from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.processes.environment import is_main


class CallerOutput(Output):
    """Results go back to the caller rather than to stdout. With `progress`, bars and notes go to stderr."""

    def __init__(self, progress: bool = False):
        super().__init__(quiet=not (progress and is_main()), json=True)

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    def error(self, error: UcdError) -> NoReturn:
        """Raise what a command would report before it goes on: the caller decides."""
        raise error
