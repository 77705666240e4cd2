"""Images as people have them, put through what a user does: train, resume, encode, evaluate, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import evaluate
from concepts_cli.commands.report import report
from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


def run_recipe(recipe_file, *overrides, **options) -> Run:
    return train(load_recipe(recipe_file, overrides), device="cpu", out=QUIET, **options)


def assert_whole_round(recipe_file: Path, workplace: Path, images: list, *overrides: str) -> Run:
    """Train at once and in two parts, which end at the same bits; then encode, evaluate and report."""
    whole = run_recipe(recipe_file, *overrides)
    run_recipe(recipe_file, *overrides, "train.max_steps=1", output=workplace / "parts")
    parts = run_recipe(recipe_file, *overrides, output=workplace / "parts", resume=True)
    for name in ("concepts.safetensors", "weights.safetensors"):
        assert (whole.path / name).read_bytes() == (parts.path / name).read_bytes()
    assert [record.sha256 for record in whole.images] == [record.sha256 for record in parts.images]
    again = Run(whole.path)
    encoded = encode(again, images, steps=2, device="cpu", out=QUIET)["images"]
    assert len(encoded) >= 1 and all(np.isfinite(image["loss"]) for image in encoded)
    found = evaluate(again, metrics=["assignment"], device="cpu", out=QUIET)["metrics"]
    assert set(found) == {"assignment"}
    assert report(again).read_text().count("data:image/") >= len(again.images)
    return again


@pytest.fixture
def shapes(workplace, recipe_file, image_folder) -> Path:
    """Six images: wide, tall and square ones."""
    rng = np.random.default_rng(1)
    for n, size in enumerate([(40, 80), (80, 40), (40, 40), (41, 79), (64, 64), (30, 95)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(image_folder / f"{n}.png")
    return image_folder


@pytest.mark.parametrize("start", ["table", "images"])
def test_buckets(recipe_file, workplace, shapes, start):
    run = assert_whole_round(
        recipe_file, workplace, [shapes / "1.png"], "data.resize=bucket", f"concepts.start={start}"
    )
    squares = run_recipe(recipe_file, f"concepts.start={start}")
    assert not torch.equal(run.weights, squares.weights)
