"""Train beside other work: use as many threads as there are idle cores.

Two threads that wait for each other on one free core are several times slower than one thread there.
"""

import os
import time
from pathlib import Path

import torch

STAT = Path("/proc/stat")  # Linux; elsewhere nothing is adapted


class IdleCores:
    """Call `adapt` between steps: every few seconds it measures what other processes use, and sets torch's threads."""

    def __init__(self, seconds: float = 4.0):
        self.seconds = seconds
        self.cores = len(os.sched_getaffinity(0)) if STAT.exists() else 0
        self.last = self._times()

    def _times(self) -> tuple[float, float, float]:
        """Seconds of wall clock, of all cores' work, and of this process's work."""
        if not self.cores:
            return time.monotonic(), 0.0, 0.0
        ticks = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:]]
        idle = ticks[3] + ticks[4]
        return time.monotonic(), (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK"), time.process_time()

    def adapt(self) -> int | None:
        """The new number of threads, or None if it stays the same."""
        if not self.cores or time.monotonic() - self.last[0] < self.seconds:
            return None
        now = self._times()
        elapsed, busy, own = (new - old for new, old in zip(now, self.last, strict=True))
        self.last = now
        threads = max(1, self.cores - round(max(0.0, busy - own) / elapsed))
        if threads == torch.get_num_threads():
            return None
        torch.set_num_threads(threads)
        return threads
