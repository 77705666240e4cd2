"""What a computation really allocates on the CPU, by torch's profiler of its allocator."""

from __future__ import annotations

from collections.abc import Callable

import torch


def measured_peak(run: Callable[[], object]) -> int:
    """The most bytes that lived at once of those that `run` allocated."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        run()
    live = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
