"""The corpus on disk: scenes drawn once, each with several captions, read by every stage of training."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from concepts_cli.mini.captions import CLASSES, draw_caption, draw_parts
from concepts_cli.mini.corpus import SIZE, draw_scene

COUNT = 131_072
CAPTIONS = 4  # per scene: what one leaves out, another may say
CHUNK = 1024  # scenes that a process draws at a time


@dataclass(frozen=True)
class Scenes:
    """N captioned pictures."""

    images: np.ndarray  # (N, 64, 64, 3) uint8, in a memory map
    labels: np.ndarray  # (N, 3) int8: indices of CLASSES, -1 for no further object
    captions: list[list[str]]  # N lists of CAPTIONS
    parts: list[list[str]]  # N lists: a caption, and captions that together say the same
    facts: list[frozenset[str]]  # everything that could be named: objects, drawing, background, filter, day or night

    def __len__(self) -> int:
        return len(self.captions)


def draw_corpus(folder: Path, *, seed: int, count: int = COUNT) -> None:
    """Draw `count` scenes into `folder`, on all cores; scene i depends on the seed and i alone.

    131,072 take under two minutes on two cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
    labels = np.full((count, 3), -1, dtype=np.int8)
    texts: dict[str, list[list[str]]] = {"captions": [], "parts": [], "facts": []}
    for start, drawn in _chunks(seed, count):
        for i, (image, names, *said) in enumerate(drawn, start):
            images[i] = image
            labels[i, : len(names)] = [CLASSES.index(name) for name in names]
            for kind, lines in zip(texts, said, strict=True):
                texts[kind].append(lines)
    images.flush()
    np.save(folder / "labels.npy", labels)
    for kind in ("facts", "parts", "captions"):  # the last one marks the corpus as complete
        (folder / f"{kind}.json").write_text(json.dumps(texts[kind]))


Drawn = tuple[np.ndarray, tuple[str, ...], list[str], list[str], list[str]]  # picture, labels, captions, parts, facts


def _chunks(seed: int, count: int) -> Iterator[tuple[int, list[Drawn]]]:
    """The scenes in their order, in chunks, each with the number of its first scene."""
    starts = range(0, count, CHUNK)
    stops = [min(start + CHUNK, count) for start in starts]
    if len(starts) == 1:
        yield 0, _draw(seed, 0, count)
        return
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=get_context("fork" if sys.platform == "linux" else "spawn")
    ) as pool:
        yield from zip(starts, pool.map(_draw, [seed] * len(starts), starts, stops), strict=True)


def _draw(seed: int, start: int, stop: int) -> list[Drawn]:
    drawn = []
    for i in range(start, stop):
        rng = np.random.default_rng((seed, i))
        scene = draw_scene(rng)
        captions = [scene.caption, *(draw_caption(rng, scene.facts) for _ in range(CAPTIONS - 1))]
        drawn.append((scene.image, scene.labels, captions, draw_parts(rng, scene.facts), sorted(scene.facts.names)))
    return drawn


def read_corpus(folder: Path) -> Scenes:
    """The corpus of `folder`. Raises FileNotFoundError if it is missing or incomplete."""
    captions, parts, facts = (
        json.loads((folder / f"{kind}.json").read_text()) for kind in ("captions", "parts", "facts")
    )
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Scenes(images, np.load(folder / "labels.npy"), captions, parts, [frozenset(names) for names in facts])
