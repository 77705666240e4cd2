"""Two processes train as one with twice the batch does, write once, and stop and go on together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

UCD = [sys.executable, "-m", "concepts_cli", "train", "tiny.yaml", "--device", "cpu"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}


def one_process(recipe_file, *changes) -> Run:
    return train(load_recipe(recipe_file, changes), device="cpu", out=Output(quiet=True))


def run(*command, **options) -> subprocess.CompletedProcess:
    environment = ENVIRONMENT | {"UCD_CACHE": os.environ["UCD_CACHE"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **options)


def assert_alike(run: Run, other: Run) -> None:
    torch.testing.assert_close(run.embeddings, other.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run.weights, other.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update", ["all", "seen"])
def test_two_processes_give_what_twice_the_batch_gives(workplace, recipe_file, update):
    changes = [f"weights.update={update}", "train.scale_learning_rate=true", "train.learning_rate=1e-3"]
    whole = one_process(recipe_file, *changes, "train.batch_size=4")
    sets = [part for change in changes for part in ("--set", change)]
    done = run(*UCD, *sets, "--num-processes", "2", "--output", "two", "-q", cwd=workplace)
    assert (done.returncode, done.stdout) == (0, "two\n"), done.stderr
    two = Run(workplace / "two")
    assert_alike(two, whole)
    assert len((two.path / "metrics.jsonl").read_text().splitlines()) == 3
    assert [path.name for path in two.checkpoints()] == ["step-000003"]


def test_torchrun_launches_it_and_one_process_goes_on_with_it(workplace, recipe_file):
    """`accelerate launch` starts GPU processes as torchrun does; on CPUs it starts one only."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *UCD[1:]]
    done = run(*launch, "--set", "train.max_steps=2", "--output", "two", cwd=workplace)
    assert (done.returncode, done.stdout) == (0, "two\n"), done.stderr
    whole = one_process(recipe_file, "train.batch_size=4", "train.max_steps=4")
    recipe = load_recipe(recipe_file, ["train.batch_size=4", "train.max_steps=4"])
    resumed = train(recipe, output=workplace / "two", resume=True, device="cpu", out=Output(quiet=True))
    assert_alike(resumed, whole)


def test_an_interrupt_stops_all_processes_at_the_same_step(workplace, recipe_file):
    command = [*UCD, "--set", "train.max_steps=100000", "--num-processes", "2", "--output", "two"]
    environment = ENVIRONMENT | {"UCD_CACHE": os.environ["UCD_CACHE"]}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=workplace)
    while process.poll() is None and not (workplace / "two" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.count("to continue: ucd train two --resume") == 1
    (checkpoint,) = Run(workplace / "two").checkpoints()
    lines = (workplace / "two" / "metrics.jsonl").read_text().splitlines()
    assert int(checkpoint.name.removeprefix("step-")) == len(lines)


def test_a_mistake_is_said_once_and_nothing_is_started(workplace, recipe_file):
    done = run(*UCD, "--set", "train.schedule=linaer", "--num-processes", "2", cwd=workplace)
    assert done.returncode == 2 and done.stderr.count("--set train.schedule=linaer") == 1
    assert not (workplace / "runs").exists()
