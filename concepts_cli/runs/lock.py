"""One process writes a run folder at a time: a lock, and who holds it.

The system releases the lock when its process ends, however it ends. It is flock, which Linux also passes on to the
server of an NFS or SMB share, so that machines that share a disk exclude each other; Windows has its own. A disk that
knows no locks is written without one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from concepts_cli.errors import UcdError
from concepts_cli.runs.files import unwritable, write_text
from concepts_cli.runs.reading import read_object

POLL_SECONDS, PATIENCE = 0.05, 20
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunLock:
    """The lock for `what` in a run folder, by default for training it.

    It is the process's, not the object's: in one process several objects may hold it, and the last one releases it.
    """

    def __init__(self, folder: Path, what: str = ""):
        self.folder = folder
        self._place = folder / (f".{what}.lock" if what else ".lock")
        self._holder = self._place.with_name(f"{self._place.name}.json")
        self._lock = FileLock(self._place.absolute(), thread_local=False, is_singleton=True)
        self._taken = False

    def take(self, wait: float = 0) -> bool:
        """Take the lock, or keep it; wait `wait` seconds at most. Returns False if the disk knows no locks.

        Raises UcdError (1) that says who holds it, or that the folder can't be written to.
        """
        if self._taken:
            return True
        try:
            self._lock.acquire(timeout=wait, poll_interval=POLL_SECONDS)
        except Timeout as error:
            hint = "wait until it is done or end it, or choose another --output"
            raise UcdError(f"{self.folder} is in use by {self._holder_in_words()}", hint, exit_code=1) from error
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return False
            raise unwritable(self._place, error) from error
        self._taken = True
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        }
        with suppress(UcdError):  # the lock holds without it
            write_text(self._holder, json.dumps(holder))
        return True

    def release(self) -> None:
        """Give the lock back, if it was taken."""
        if not self._taken:
            return
        self._taken = False
        if self._lock.lock_counter == 1:
            with suppress(OSError):
                self._holder.unlink()
        self._lock.release()

    def delete_files(self) -> None:
        """Delete what the lock keeps in the folder. Only for its holder, before it releases the lock."""
        self._holder.unlink(missing_ok=True)
        self._place.unlink(missing_ok=True)

    def _holder_in_words(self) -> str:
        for _ in range(PATIENCE):  # it may have taken the lock a moment ago, and not have said so yet
            with suppress(UcdError, FileNotFoundError):
                holder = read_object(self._holder, "")
                return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
            time.sleep(POLL_SECONDS)
        return "another process"


@contextmanager
def locked(folder: Path, what: str, wait: float) -> Iterator[None]:
    """Hold the lock for `what` during a block."""
    lock = RunLock(folder, what)
    lock.take(wait)
    try:
        yield
    finally:
        lock.release()
