"""Photographs of animals on photographs of other things, with exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tests.bench.photo_sources import photographs, stamp

SIDE = 256
# ImageNet's name -> stamps. Five of the paper's twenty classes.
CLASSES = {
    "koala": ("animals/marsupials/koala",),
    "zebra": ("animals/mammals/equines/zebra",),
    "tiger": ("animals/mammals/cats/tiger", "animals/mammals/cats/tiger_sumatran"),
    "African elephant": ("animals/mammals/elephant",),
    "chimpanzee": ("animals/mammals/apes/chimp",),
}
BEHIND = ("renewable/", "monuments/")  # photographs with room in front


@dataclass(frozen=True)
class Composite:
    """Picture `number` of its class: an animal somewhere on a photograph, and where it is."""

    label: str
    number: int
    image: Image.Image
    mask: Image.Image  # 255 on the animal


def composites(folder: Path, each: int, *, seed: int = 0) -> list[Composite]:
    """`each` pictures of every class; no two have the same background as far as there are enough."""
    rng = np.random.default_rng(seed)
    behind = [each.image for each in photographs(folder) if each.name.startswith(BEHIND)]
    order = rng.permutation(max(len(behind), each * len(CLASSES))) % len(behind)
    made = []
    for number in range(each):
        for label, stamps in CLASSES.items():
            background = ImageOps.fit(behind[order[len(made)]], (SIDE, SIDE))
            animal = stamp(folder, stamps[number % len(stamps)])
            made.append(Composite(label, number, *_paste(rng, animal, background)))
    return made


def _paste(rng: np.random.Generator, animal: Image.Image, background: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The picture and the mask of an animal at a random place, in a random size, perhaps mirrored."""
    if rng.random() < 0.5:
        animal = ImageOps.mirror(animal)
    scale = SIDE * rng.uniform(0.6, 0.9) / max(animal.size)
    animal = animal.resize([max(round(side * scale), 1) for side in animal.size], Image.Resampling.LANCZOS)
    corner = tuple(int(rng.integers(0, SIDE - side + 1)) for side in animal.size)
    image, mask = background.copy(), Image.new("L", background.size)
    image.paste(animal, corner, animal)
    mask.paste(animal.getchannel("A").point(lambda alpha: 255 * (alpha > 127)), corner)
    return image, mask


def write(pictures: Sequence[Composite], folder: Path) -> list[Path]:
    """Write them under names that say nothing; returns their paths, in order."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(len(pictures)).permutation(len(pictures))
    paths = [folder / f"{place:03d}.png" for place in order]
    for picture, path in zip(pictures, paths, strict=True):
        picture.image.save(path)
    return paths
