"""On a GPU: a killed training goes on, on a CPU too, and two processes on one card train as one."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

pytestmark = pytest.mark.gpu
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
QUIET = Output(quiet=True)


def assert_near(run: Run, other: Run) -> None:
    """A GPU's sums have no fixed order."""
    torch.testing.assert_close(run.embeddings, other.embeddings, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(run.weights, other.weights, rtol=1e-2, atol=1e-3)


def test_a_killed_training_goes_on(workplace, recipe_file):
    changes = ["train.max_steps=60", "train.checkpoint_every=5", "train.learning_rate=1e-3"]
    whole = train(load_recipe(recipe_file, changes), output=workplace / "whole", device="cuda", out=QUIET)
    sets = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "concepts_cli", "train", "tiny.yaml", "--device", "cuda", "--output", "killed"]
    killed = Run(workplace / "killed")
    process = subprocess.Popen([*command, *sets, "-q"], cwd=workplace, env=ENVIRONMENT)
    while process.poll() is None and not killed.checkpoints():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not killed.is_finished() and killed.checkpoints()
    train(load_recipe(recipe_file, changes), output=killed.path, resume=True, device="cuda", out=QUIET)
    assert_near(killed, whole)


def test_a_training_moves_from_gpu_to_cpu(workplace, recipe_file):
    def trained(name: str, *devices: str) -> Run:
        for steps, device in enumerate(devices, start=1):
            recipe = load_recipe(recipe_file, [f"train.max_steps={2 * steps}"])
            run = train(recipe, output=workplace / name, resume=steps > 1, device=device, out=QUIET)
        return run

    assert_near(trained("moved", "cuda", "cpu"), trained("stayed", "cpu", "cpu"))


def test_two_processes_on_one_card_train_as_one(workplace, recipe_file):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.gpu.on_one_card"]
    done = subprocess.run(
        [*launch, "train", "tiny.yaml", "--output", "two", "-q"],
        cwd=workplace,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    recipe = load_recipe(recipe_file, ["train.batch_size=4"])
    assert_near(Run(workplace / "two"), train(recipe, device="cuda", out=QUIET))
