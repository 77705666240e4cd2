"""A command for tests to run in a process of its own, and to kill."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from typer.testing import CliRunner

from concepts_cli.cli import app


def run(arguments: Sequence[str], place: Path) -> None:
    """Run `ucd ARGUMENTS` in the folder `place`, which holds a run, `run`."""
    torch.set_num_threads(1)
    os.chdir(place)
    os.environ |= {"UCD_CACHE": str(place / "cache"), "UCD_RUN": "run", "HF_HUB_OFFLINE": "1"}
    sys.exit(CliRunner().invoke(app, list(arguments)).exit_code)
