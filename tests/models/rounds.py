"""A recipe for a round of all commands on a tiny model of some family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from concepts_cli.models import load_model
from concepts_cli.runs.run import Run


def write_recipe(path: Path, model: Path) -> Path:
    """Two concepts of the six images in `images/` beside it, and their labels."""
    labels = {f"{n}.png": ["cat" if n < 3 else "dog"] for n in range(6)}
    (path.parent / "labels.json").write_text(json.dumps(labels))
    path.write_text(
        f"""model: {model}
data: {{images: images}}
concepts: {{count: 2, initial: [cat, dog]}}
train:
  {{max_steps: 2, batch_size: 2, gradient_accumulation: 2, log_every: 1, learning_rate: 0.01,
    scale_learning_rate: false}}
sample: {{num_images: 1, steps: 2}}
evaluate: {{class_names: [cat, dog], labels: labels.json}}
"""
    )
    return path


def assert_maps(ucd: Callable[..., str], run: Run) -> None:
    """`ucd visualize` maps a generated picture and the concepts in an image, with a number for every latent."""
    shape = load_model(run.recipe.model, device="cpu").latent_shape()[1:]
    for wanted in (["-c", "t1", "-n", "1", "--map", "attention"], ["images/0.png", "--map", "contrast"]):
        drawn = json.loads(ucd("visualize", *wanted, "--maps", "--json"))["maps"]
        assert len(drawn) == (1 if "t1" in wanted else 2)
        for heat in (np.load(each["map"]) for each in drawn):
            assert heat.shape == shape and heat.min() >= 0 and heat.std() > 0
