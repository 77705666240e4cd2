"""The peak of a process's memory, as Linux counts it."""

from __future__ import annotations

import os
import subprocess
import sys


def start_of_peak() -> float:
    """Let the high-water mark start anew; returns what is in memory now, in MiB."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def peak() -> float:
    """The most that was in memory since then, in MiB."""
    return _status("VmHWM")


def in_a_process(module: str, *arguments: str) -> list[float]:
    """The numbers in the last line that `python -m MODULE ARGUMENTS` prints."""
    # Tensors as maps of their own: what is freed is given back, and the peak is that of what is used at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "8192", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", module, *arguments]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in found.stdout.splitlines()[-1].split()]


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(field)) / 1024
