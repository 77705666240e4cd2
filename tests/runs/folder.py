"""A small run folder made by hand, without a training; and everything that is read of one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from concepts_cli.runs.run import Run

TOKENS = ["<t1>", "<t2>"]
IMAGE = {"path": "images/0.png", "sha256": "ab" * 32, "width": 48, "height": 40}


def write_concepts(folder: Path, embeddings=None, tokens=TOKENS, name="embeddings") -> None:
    table = torch.arange(8.0).view(2, 4) if embeddings is None else embeddings
    save_file({name: table}, folder / "concepts.safetensors", {"tokens": json.dumps(tokens)})


def write_weights(folder: Path, weights=None, name="weights", tokens=TOKENS) -> None:
    table = torch.arange(6.0).view(3, 2) if weights is None else weights
    save_file({name: table}, folder / "weights.safetensors", {"tokens": json.dumps(tokens)})


def write_images(folder: Path, *changes: dict, count: int = 3) -> None:
    lines = [IMAGE | (changes[n] if n < len(changes) else {}) for n in range(count)]
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_checkpoint(folder: Path, number: int = 4, **changes) -> None:
    place = folder / "checkpoints" / f"step-{number:06d}"
    place.mkdir(parents=True)
    state = {"step": torch.tensor(number), "images": torch.zeros(3, 32, dtype=torch.uint8)}
    save_file({**state, **changes}, place / "state.safetensors")


def small_run(folder: Path) -> Run:
    """A run of K=2 concepts of width 4 in N=3 images."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("model: mini\ndata: {images: images}\nconcepts: {count: 2}\n")
    write_concepts(folder)
    write_weights(folder)
    write_images(folder)
    return Run(folder)


def read_everything(folder: Path) -> tuple:
    run = Run(folder)
    return run.recipe, run.tokens, run.embeddings, run.images, run.weights, run.load_checkpoint()
