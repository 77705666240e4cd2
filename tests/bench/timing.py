"""Times to be compared: taken in turns within one run, since seconds differ from machine to machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def interleaved(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns, so that a slow minute of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if repeat:  # the first is warm-up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
