"""The corpus on disk: scenes drawn once, each with several captions, read by every stage of training."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepts_cli.mini.captions import CLASSES, draw_caption
from concepts_cli.mini.corpus import SIZE, draw_scene

COUNT = 131_072
CAPTIONS = 4  # per scene: what one leaves out, another may say


@dataclass(frozen=True)
class Scenes:
    """N captioned pictures."""

    images: np.ndarray  # (N, 64, 64, 3) uint8, in a memory map
    labels: np.ndarray  # (N, 3) int8: indices of CLASSES, -1 for no further object
    captions: list[list[str]]  # N lists of CAPTIONS
    facts: list[frozenset[str]]  # everything that could be named: objects, drawing, background, filter, day or night

    def __len__(self) -> int:
        return len(self.captions)


def draw_corpus(folder: Path, *, seed: int, count: int = COUNT) -> None:
    """Draw `count` scenes into `folder`; scene i depends on the seed and i alone. 131,072 take about two minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
    labels, captions, facts = np.full((count, 3), -1, dtype=np.int8), [], []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        scene = draw_scene(rng)
        images[i] = scene.image
        labels[i, : len(scene.labels)] = [CLASSES.index(label) for label in scene.labels]
        captions.append([scene.caption, *(draw_caption(rng, scene.facts) for _ in range(CAPTIONS - 1))])
        facts.append(sorted(scene.facts.names))
    images.flush()
    np.save(folder / "labels.npy", labels)
    (folder / "facts.json").write_text(json.dumps(facts))
    # Written last: it marks the corpus as complete.
    (folder / "captions.json").write_text(json.dumps(captions))


def read_corpus(folder: Path) -> Scenes:
    """The corpus of `folder`. Raises FileNotFoundError if it is missing or incomplete."""
    captions = json.loads((folder / "captions.json").read_text())
    facts = [frozenset(names) for names in json.loads((folder / "facts.json").read_text())]
    return Scenes(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy"), captions, facts)
