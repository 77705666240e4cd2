"""Which process of a launch this is: the only place that reads launchers' variables."""

from __future__ import annotations

import os
import re

from concepts_cli.errors import UcdError, shown

LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what launchers set beside WORLD_SIZE


def is_launched() -> bool:
    """Whether a launcher started this process, even as the only one."""
    return "WORLD_SIZE" in os.environ


def world_size() -> int:
    """How many processes work together. Raises UcdError for variables that no launcher sets."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        value = os.environ.get(name, "1")
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise UcdError(f"${name} is {shown(value)!r}, expected a number as a launcher sets it", f"unset {name}")
    size = max(int(os.environ.get("WORLD_SIZE", "1")), 1)
    if size > 1 and (missing := [name for name in LAUNCHED if name not in os.environ]):
        raise UcdError(f"$WORLD_SIZE is {size}, and ${missing[0]} is not set", "unset WORLD_SIZE, or use a launcher")
    return size


def is_main() -> bool:
    """Whether this is the main process, which prints; true if there is only one."""
    return os.environ.get("WORLD_SIZE", "1") in ("0", "1") or os.environ.get("RANK", "0") == "0"
