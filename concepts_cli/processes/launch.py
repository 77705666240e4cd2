"""`ucd train --num-processes N`: the same command in N processes on this machine, one GPU each if there are GPUs.

For several machines, run `accelerate launch … -m concepts_cli train …` on each of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess  # nosec B404
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from concepts_cli.processes.signals import handled

POLL_SECONDS = 0.05
GRACE_SECONDS = 30  # for the others to exit by themselves after one has failed


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `ucd ARGUMENTS` in `count` connected processes; return the first nonzero exit status, or 0.

    SIGINT and SIGTERM are passed on to all. If one process fails, the others are stopped.
    """
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or count) // count, 1)),
    }
    command = [sys.executable, "-m", "concepts_cli", *arguments]
    # In a session of their own: Ctrl-C reaches only this process, which passes it on.
    processes = [
        subprocess.Popen(  # nosec B603
            command, env=os.environ | shared | {"RANK": str(n), "LOCAL_RANK": str(n)}, start_new_session=True
        )
        for n in range(count)
    ]

    def hand_on(number: int, frame: FrameType | None = None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    with handled(hand_on, signal.SIGINT, signal.SIGTERM):
        try:
            return _wait(processes, hand_on)
        finally:
            for process in processes:
                process.kill()


def _wait(processes: Sequence[subprocess.Popen[bytes]], hand_on: Callable[[int], None]) -> int:
    """Wait until all have exited, or one has failed and the others have had time to exit."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            hand_on(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline and any(process.poll() is None for process in processes):
                time.sleep(POLL_SECONDS)
            own = [
                code for code in codes if code and code > 0
            ]  # of the process that failed, not of those stopped because of it
            return own[0] if own else 1
        if None not in codes:
            return 0
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
