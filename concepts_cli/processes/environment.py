"""Which process of a launch this is: the only place that reads launchers' variables."""

from __future__ import annotations

import os
import re

from concepts_cli.errors import UcdError, shown


def is_launched() -> bool:
    """Whether a launcher started this process, even as the only one."""
    return "WORLD_SIZE" in os.environ


def world_size() -> int:
    """How many processes work together. Raises UcdError for variables that no launcher sets."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        value = os.environ.get(name, "1")
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise UcdError(f"${name} is {shown(value)!r}, expected a number as a launcher sets it", f"unset {name}")
    return max(int(os.environ.get("WORLD_SIZE", "1")), 1)


def is_main() -> bool:
    """Whether this is the main process, which prints; true if there is only one."""
    return os.environ.get("RANK", "0") == "0"
