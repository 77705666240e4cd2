"""Handle signals for the length of a block."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
ONE_KEYSTROKE_SECONDS = 1.0  # a launcher and the terminal may both hand on the same Ctrl-C


@contextmanager
def handled(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Let `handler` take the signals; whatever took them before does so again afterwards.

    Python hands signals to the main thread alone: in another thread nothing changes.
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
    """SIGTERM raises KeyboardInterrupt, as SIGINT does, so that it, too, leaves nothing half done."""
    with handled(signal.default_int_handler, signal.SIGTERM):
        yield


@contextmanager
def signals_noted() -> Iterator[list[float]]:
    """SIGINT and SIGTERM only leave a note, so that a step is never cut in two; a second one interrupts at once."""
    noted: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted and time.monotonic() - noted[0] > ONE_KEYSTROKE_SECONDS:
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield noted
