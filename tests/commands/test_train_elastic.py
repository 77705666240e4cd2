"""A lost worker: torchrun starts all of them again, and the training goes on from its last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
from tests.commands.test_train_processes import ENVIRONMENT, assert_alike

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in Linux's /proc"),
]
SBATCH = Path(__file__).parents[2] / "docs" / "train.sbatch"
STEPS = 40


def environment(**more: str) -> dict[str, str]:
    fixed = {"CUDA_VISIBLE_DEVICES": "", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as docs/train.sbatch says
    return ENVIRONMENT | {"UCD_CACHE": os.environ["UCD_CACHE"]} | fixed | more


def workers_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def trained_alone(recipe_file, batch: int, steps: int) -> Run:
    recipe = load_recipe(recipe_file, [f"train.batch_size={batch}", f"train.max_steps={steps}"])
    return train(recipe, device="cpu", out=Output(quiet=True))


def test_one_of_four_workers_is_killed(workplace, recipe_file):
    launch = [
        "--standalone",
        "--nproc-per-node",
        "4",
        "--max-restarts",
        "2",
        "-m",
        "concepts_cli",
        "train",
        "tiny.yaml",
    ]
    settings = ["--set", f"train.max_steps={STEPS}", "--set", "train.batch_size=1", "--set", "train.checkpoint_every=4"]
    settings += ["--output", "four", "--resume"]
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "--device", "cpu", *settings]
    run = Run(workplace / "four")
    with subprocess.Popen(command, cwd=workplace, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not run.checkpoints():
            time.sleep(0.02)
        lost = workers_of(process.pid)
        os.kill(lost[2], signal.SIGKILL)
        _, said = process.communicate(timeout=600)
    assert len(lost) == 4 and process.returncode == 0, said
    assert "resuming at step" in said
    assert_alike(run, trained_alone(recipe_file, 4, STEPS))


def test_the_slurm_script_trains(workplace, recipe_file):
    """With stand-ins for SLURM's own commands, on one node with two processes."""
    bin_folder = workplace / "bin"
    bin_folder.mkdir()
    for name, does in {
        "srun": 'exec "$@"',
        "scontrol": "echo localhost",
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (bin_folder / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "2",
    }
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", SBATCH, "tiny.yaml", "--device", "cpu", "--output", "two", "-q"],
        cwd=workplace,
        env=environment(**slurm, PATH=path, PORT="0"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert_alike(Run(workplace / "two"), trained_alone(recipe_file, 4, 3))
