"""A training for test_train_killed.py to run in a process of its own and kill: RECIPE OUTPUT."""

from __future__ import annotations

from pathlib import Path

import torch

from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe


def run(recipe: Path, output: Path) -> None:
    torch.set_num_threads(1)
    train(load_recipe(recipe), output=output, resume=True, device="cpu", out=Output(quiet=True))
