"""stdout and stderr as a shell leaves them: closed, full, or without a reader."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from concepts_cli.errors import UcdError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def open_closed_streams() -> None:
    """Give a closed stdin, stdout or stderr a place to go, so that no other file gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def stream_error(error: BaseException) -> UcdError | None:
    """The mistake behind an error of stdout; None for other errors."""
    if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
        return UcdError(f"can't write to stdout: {error.strerror}", exit_code=1)
    return None


def flush_streams() -> bool:
    """Flush stdout and stderr, whatever became of them; return whether all of stdout got out."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            whole &= stream is sys.stderr or isinstance(error, BrokenPipeError)
            with suppress(OSError, ValueError):  # Python would complain again when it exits
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return whole
