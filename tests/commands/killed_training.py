"""Trainings for tests to run in processes of their own, and to kill: RECIPE OUTPUT."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from concepts_cli.commands.train import train
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe


def run(recipe: Path, output: Path) -> None:
    torch.set_num_threads(1)
    train(load_recipe(recipe), output=output, resume=True, device="cpu", out=Output(quiet=True))


def run_new(recipe: Path, output: Path, force: bool) -> None:
    """Train anew; a mistake is the process's exit message."""
    torch.set_num_threads(1)
    try:
        train(load_recipe(recipe), output=output, force=force, device="cpu", out=Output(quiet=True))
    except UcdError as error:
        output.with_name(f"{output.name}-refused").write_text(error.message)
        sys.exit(error.exit_code)
