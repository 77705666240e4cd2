"""Calls print nothing: neither the commands beneath them nor other libraries."""

from __future__ import annotations

import functools
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from concepts_cli.errors import UcdError, memory_error
from concepts_cli.output import LOUD_LIBRARIES, Output, is_debugging
from concepts_cli.processes.environment import is_main

T = TypeVar("T")
_lock = threading.Lock()
_calls = 0  # in progress, in all threads
_undo = ExitStack()


class CallerOutput(Output):
    """Results go back to the caller rather than to stdout. With `progress`, bars and notes go to stderr."""

    def __init__(self, progress: bool = False):
        super().__init__(quiet=not (progress and is_main()), json=True)

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=1)  # in this module's name, by which `silenced` lets it pass

    def error(self, error: UcdError) -> NoReturn:
        """Raise what a command would report before it goes on: the caller decides."""
        raise error

    @contextmanager
    def mistakes_as_warnings(self) -> Iterator[None]:
        """Warn of a UcdError instead of raising it."""
        try:
            yield
        except UcdError as error:
            self.warn(error.message)


@contextmanager
def silenced() -> Iterator[None]:
    """Silence other libraries' bars, log lines and warnings during a call, unless UCD_DEBUG=1.

    Afterwards everything is as it was: what a notebook does by itself still shows. Calls may overlap, in threads.
    """
    global _calls, _undo
    with _lock:
        if not _calls:
            _undo = _silence()
        _calls += 1
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if mistake := memory_error(error, "lower batch_size, height and width, or use the device cpu"):
            raise mistake from error
        raise
    finally:
        with _lock:
            _calls -= 1
            if not _calls:
                _undo.close()


def silenced_steps(steps: Iterator[T]) -> Iterator[T]:
    """Pass steps through, each silenced as a call is; what the caller does in between is not."""
    while True:
        with silenced():
            try:
                step = next(steps)
            except StopIteration:
                return
        yield step


def _silence() -> ExitStack:
    """Silence them, and return what undoes it."""
    undo = ExitStack()
    if is_debugging():
        return undo
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=rf"(?!{__name__})")
        undo.enter_context(suppress(ValueError))  # where the caller has reset the filters meanwhile
        undo.callback(warnings.filters.remove, warnings.filters[0])  # type: ignore[attr-defined]
    for library in ("diffusers", "huggingface_hub", "transformers"):
        import_module(library)  # first: each sets its logger's level when it is imported
    for name in LOUD_LIBRARIES:
        logger = logging.getLogger(name)
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
    root = logging.getLogger()  # what open_clip logs to; a level would silence the caller's loggers too
    root.addFilter(_refuse)
    undo.callback(root.removeFilter, _refuse)
    if not root.handlers:  # logging.error() would add one that stays
        root.addHandler(nowhere := logging.NullHandler())
        undo.callback(root.removeHandler, nowhere)
    undo.callback(setattr, tqdm, "__init__", tqdm.__init__)
    tqdm.__init__ = _disabled(tqdm.__init__)
    return undo


def _refuse(record: logging.LogRecord) -> bool:
    return False


def _disabled(init: Any) -> Any:
    """tqdm's __init__ without a bar; the bars of huggingface_hub, transformers and diffusers derive from it."""

    @functools.wraps(init)
    def wrapper(*arguments: Any, **options: Any) -> None:
        init(*arguments, **options | {"disable": True})

    return wrapper
