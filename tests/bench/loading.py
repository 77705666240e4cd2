"""What happens before training: images listed, checked and hashed, the first time and when they are remembered.

Beside it what reading every byte and hashing it takes, one file after the other, and the report of many images.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from concepts_cli.commands.report import report
from concepts_cli.data.finding import find_images
from concepts_cli.data.images import ImageRecord
from concepts_cli.data.records import read_images
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.runs.run import Run
from tests.bench.memory import peak, start_of_peak

SETS = {"20,000 PNGs of 64 px": (20_000, 64, "png"), "200 JPEGs of 12 megapixels": (200, (4000, 3000), "jpg")}
REPORTS = (2_000, 100_000)


def write_images(folder: Path, count: int, size: int | tuple[int, int], suffix: str) -> None:
    """Scenes of the built-in world, or large smooth pictures with noise on them; no two files are alike."""
    rng = np.random.default_rng(0)
    if isinstance(size, int):
        pictures = [draw_scene(rng).image for _ in range(50)]
    else:
        coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(size)
        pictures = [np.asarray(coarse) // 2 + rng.integers(0, 12, (size[1], size[0], 3), dtype=np.uint8)]
    for n in range(count):
        picture = np.roll(pictures[n % len(pictures)], n // len(pictures), axis=1)
        picture[0, 0] = n % 256, n // 256 % 256, n // 65536
        Image.fromarray(picture).save(folder / f"{n:06d}.{suffix}", quality=95)


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def run_of(count: int, folder: Path) -> Run:
    """A run of eight concepts in `count` images, of which 300 are on the disk."""
    images, run, tokens = folder / "images", folder / f"run-{count}", [f"<t{k}>" for k in range(1, 9)]
    run.mkdir()
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(images.iterdir())[:300]]
    records = [ImageRecord(str(images / f"{n % 300:06d}.png"), hashes[n % 300], 64, 64) for n in range(count)]
    (run / "images.jsonl").write_text("".join(json.dumps(vars(record)) + "\n" for record in records))
    (run / "recipe.yaml").write_text(f"model: mini\ndata: {{images: {images}}}\nconcepts: {{count: 8}}\n")
    weights = torch.randn(count, 8, generator=torch.Generator().manual_seed(0)).mul(3).softmax(dim=1)
    save_file({"weights": weights}, run / "weights.safetensors", {"tokens": json.dumps(tokens)})
    save_file({"embeddings": torch.zeros(8, 128)}, run / "concepts.safetensors", {"tokens": json.dumps(tokens)})
    return Run(run)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["UCD_CACHE"] = str(folder / "cache")
        for name, (count, size, suffix) in SETS.items():
            images = folder / ("images" if suffix == "png" else "photos")
            images.mkdir()
            write_images(images, count, size, suffix)

            def load(images: Path = images) -> object:
                return read_images(find_images([str(images)]))

            def read(images: Path = images) -> object:
                return [hashlib.sha256(path.read_bytes()).digest() for path in images.iterdir()]

            bare, before = timed(read), start_of_peak()
            first, memory, again = timed(load), peak() - before, timed(load)
            print(f"{name}: first {first:.1f} s, {memory:.0f} MiB; remembered {again:.2f} s; bare bytes {bare:.1f} s")
        for count in REPORTS:
            run = run_of(count, folder)
            seconds = timed(lambda run=run: report(run))
            size = (run.path / "report.html").stat().st_size / 2**20
            print(f"report of {count:,} images: {seconds:.1f} s, {size:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
