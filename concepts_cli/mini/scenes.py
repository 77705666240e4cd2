"""The corpus on disk: scenes drawn once, read by every stage of training."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepts_cli.mini.corpus import CLASSES, SIZE, draw_scene

COUNT = 65_536


@dataclass(frozen=True)
class Scenes:
    """N captioned pictures."""

    images: np.ndarray  # (N, 64, 64, 3) uint8, in a memory map
    labels: np.ndarray  # (N, 2) int8: places in CLASSES, -1 where there is no second object
    captions: list[str]
    facts: list[frozenset[str]]  # all that could be said: objects, drawing, background, filter, day or night

    def __len__(self) -> int:
        return len(self.captions)


def draw_corpus(folder: Path, *, seed: int, count: int = COUNT) -> None:
    """Draw `count` scenes into `folder`; scene i depends on the seed and i alone. Some half a minute for 65,536."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
    labels, captions, facts = np.full((count, 2), -1, dtype=np.int8), [], []
    for i in range(count):
        scene = draw_scene(np.random.default_rng((seed, i)))
        images[i] = scene.image
        labels[i, : len(scene.labels)] = [CLASSES.index(label) for label in scene.labels]
        captions.append(scene.caption)
        facts.append(scene.facts)
    images.flush()
    np.save(folder / "labels.npy", labels)
    (folder / "facts.json").write_text(json.dumps(facts))
    # Written last: it is what tells that the corpus is complete.
    (folder / "captions.json").write_text(json.dumps(captions))


def read_corpus(folder: Path) -> Scenes:
    """The corpus of `folder`. Raises FileNotFoundError if it is not there, or not complete."""
    captions = json.loads((folder / "captions.json").read_text())
    facts = [frozenset(names) for names in json.loads((folder / "facts.json").read_text())]
    return Scenes(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy"), captions, facts)
