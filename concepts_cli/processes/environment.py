"""Which process of a launch this is: the only place that reads launchers' variables."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Whether a launcher started this process, even as the only one."""
    return "WORLD_SIZE" in os.environ


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the main process, which prints; true if there is only one."""
    return os.environ.get("RANK", "0") == "0"
