"""Handle signals within a block."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object]
ONE_KEYSTROKE_SECONDS = 1.0  # a launcher and the terminal may both deliver the same Ctrl-C


@contextmanager
def handled(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Handle the signals with `handler`, and restore the earlier handlers afterwards.

    Python delivers signals to the main thread only: in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def termination_interrupts() -> Iterator[list[int]]:
    """Make SIGTERM raise KeyboardInterrupt, as SIGINT does, so that it leaves nothing half done either; note both.

    What a library makes of an interrupt may be another exception, or a word on stderr from where none can be raised:
    whoever sees a signal noted knows better.
    """
    noted: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    def report(unraisable: Any) -> None:
        if not noted:
            before(unraisable)

    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in a script's background jobs
    heard = (signal.SIGTERM,) if is_ignored else (signal.SIGINT, signal.SIGTERM)
    before, sys.unraisablehook = sys.unraisablehook, report
    try:
        with handled(interrupt, *heard):
            yield noted
    finally:
        sys.unraisablehook = before


@contextmanager
def signals_noted() -> Iterator[list[float]]:
    """Only note SIGINT and SIGTERM, so that the current step can finish; a second signal interrupts at once."""
    noted: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted and time.monotonic() - noted[0] > ONE_KEYSTROKE_SECONDS:
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield noted
