"""100,000 images against 1,000, with 50 concepts, on a tiny random model: the time of a step and the peak of memory.

Random latents are put where encoded thumbnails would lie, a file an image; some 1 GB, taken away again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.latents import CachedLatents
from concepts_cli.core.objective import ComposedLoss
from concepts_cli.data.images import ImageRecord
from concepts_cli.models import load_model
from concepts_cli.recipe import TrainSettings
from concepts_cli.recipe.prompts import OBJECT
from tests.bench.memory import in_a_process, peak, start_of_peak
from tests.bench.timing import interleaved
from tests.conftest import build_pipeline

FEW, MANY, CONCEPTS, STEPS = 1_000, 100_000, 50, 10


def training_over(count: int, folder: Path) -> Training:
    """A training over the first `count` images, whose latents are made as far as they are not there."""
    model = load_model(str(folder / "model"), device="cpu")
    records = [ImageRecord(f"{n}.png", hashlib.sha256(str(n).encode()).hexdigest(), 32, 32) for n in range(count)]
    latents = CachedLatents(model, records, resolution=32, resize="squash", mirrored=False)
    generator = seeded(0, "latents")
    for row in latents.missing(range(count)):
        mean = torch.randn(1, *model.latent_shape(), generator=generator)
        latents._write(row, {"mean": mean, "std": torch.full_like(mean, 0.1)})
    start = initial_embeddings(model, CONCEPTS, words=None, spread=1.0, generator=seeded(0, "bench"))
    objective = ComposedLoss(
        model, Concepts(start, torch.ones(count, CONCEPTS)), concept_tokens(CONCEPTS), OBJECT, checkpointed=True
    )
    settings = TrainSettings(max_steps=10**6, batch_size=2, gradient_accumulation=1, learning_rate=1e-3)
    accelerator = Accelerator(cpu=True)
    return Training(objective, latents, settings, flip_probability=0, update="seen", accelerator=accelerator)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder with a tiny model and a cache, for this process and those that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UCD_CACHE"] = str(Path(folder) / "cache")
        build_pipeline(Path(folder) / "model")
        yield Path(folder)


def main() -> None:
    with workplace() as folder:
        many, few = (training_over(count, folder).steps() for count in (MANY, FEW))
        median = interleaved({"few": lambda: next(few), "many": lambda: next(many)}, STEPS)
        print(f"{CONCEPTS} concepts, tiny model, rows of the weights moved when they are seen")
        for name, count in (("few", FEW), ("many", MANY)):
            whole, weights = in_a_process("tests.bench.many_images", "--peak", str(count), str(folder))
            print(
                f"  N = {count:>7,}: step {median[name] * 1000:6.0f} ms, peak {whole:5.0f} MiB "
                f"({weights:.0f} of them weights and their moments)"
            )
        print(f"  many / few: step {median['many'] / median['few']:.2f}", flush=True)


def _print_peak(count: int, folder: Path) -> None:
    training = training_over(count, folder)
    start_of_peak()
    steps = training.steps()
    for _ in range(STEPS):
        next(steps)
    held = [value for name, value in training.state().items() if value.shape[:1] == (count,)]
    print(peak(), sum(value.nbytes for value in held) / 2**20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2)
    count, folder = parser.parse_args().peak
    _print_peak(int(count), Path(folder))
