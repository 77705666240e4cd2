"""A training that is killed at any moment, and told to go on, ends at the same bits."""

from __future__ import annotations

import multiprocessing
import random
import signal

import torch

from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
from tests.commands import killed_training

KILLS = 20
STEPS = 60
CHANGES = [
    f"train.max_steps={STEPS}",
    "train.checkpoint_every=2",
    "train.keep_checkpoints=2",
    "train.revive_every=5",
    "train.schedule=cosine",
    "train.patience=1000",
]


def test_killed_at_twenty_random_moments_it_ends_bit_identical(workplace, recipe_file):
    recipe = load_recipe(recipe_file, CHANGES)
    whole = train(recipe, output=workplace / "whole", device="cpu", out=Output(quiet=True))
    killed = Run(workplace / "killed")
    changed = whole.path / "recipe.yaml"  # every value, the changes included
    server = multiprocessing.get_context("forkserver")  # imports once, then forks: a start takes no seconds
    server.set_forkserver_preload([killed_training.__name__, "diffusers", "transformers"])
    chance = random.Random(0)

    def start():
        process = server.Process(target=killed_training.run, args=(changed, killed.path))
        process.start()
        return process

    kills, cut_short = 0, 0
    while kills < KILLS:
        step = killed.checkpoints()[-1].name if killed.checkpoints() else None
        process = start()
        if kills % 2:  # anywhere, the start included; or a little after a checkpoint, so that it gets on
            process.join(chance.uniform(0, 1.5))
        else:
            while process.is_alive() and (not killed.checkpoints() or killed.checkpoints()[-1].name == step):
                process.join(0.005)
            process.join(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        kills += 1
        cut_short += process.exitcode == -signal.SIGKILL and not killed.is_finished()
    last = start()
    last.join()
    assert last.exitcode == 0 and cut_short >= KILLS // 2
    torch.testing.assert_close(whole.embeddings, killed.embeddings, rtol=0, atol=0)
    assert torch.equal(whole.weights, killed.weights)
    assert (whole.path / "metrics.jsonl").read_text() == (killed.path / "metrics.jsonl").read_text()
    assert [path.name for path in killed.checkpoints()] == [f"step-{STEPS - 2:06d}", f"step-{STEPS:06d}"]
