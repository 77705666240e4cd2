"""Handle signals within a block."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
def termination_interrupts() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt, as SIGINT does, so that it leaves nothing half done either."""
    with handled(signal.default_int_handler, signal.SIGTERM):
        yield


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
