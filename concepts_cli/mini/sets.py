"""Small sets of unlabelled scenes to discover concepts in, with the answers in a separate file.

    python -m concepts_cli.mini.sets s2 my-pictures --seed 3

writes my-pictures/images/image-00.png … in random order, and my-pictures/classes.json, which says what is in
each. Training the built-in model never used these backgrounds.
"""

import argparse
import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
from PIL import Image

from concepts_cli.mini.corpus import SETS, Scene, draw_scene
from concepts_cli.mini.filters import STYLES

SCENE_OBJECTS = ("tree", "house", "car", "elephant")  # in `scenes`, two at a time
STYLE_OBJECTS = ("castle", "flower", "airplane", "zebra", "teddy bear")  # in `styles`
NAMES = (*SETS, "scenes", "styles")


def draw_set(name: str, *, images_per_class: int = 5, seed: int = 0) -> list[tuple[Scene, list[str]]]:
    """The scenes of a set in random order, each with its hidden classes.

    `s1` to `s4`: one object per image, `images_per_class` of each of five classes. `scenes`: two of four objects, by
    day or at night. `styles`: each of four filters over objects of any kind; the filter comes first among the classes.
    """
    if name not in NAMES:
        raise ValueError(f"no set {name!r}: expected one of {', '.join(NAMES)}")
    rng = np.random.default_rng((seed, NAMES.index(name)))
    drawn = []
    if name in SETS:
        for label, _ in product(SETS[name], range(images_per_class)):
            drawn.append((draw_scene(rng, labels=(label,), night=False, style="", held_out=True), [label]))
    elif name == "scenes":
        # Half of the pairs by day, half at night, in turn, until there are as many images as in the other sets.
        variants = [(pair, night) for pair in combinations(SCENE_OBJECTS, 2) for night in (False, True)]
        for i in range(images_per_class * 5):
            pair, night = variants[i % len(variants)]
            pair = tuple(rng.permutation(pair).tolist())
            scene = draw_scene(rng, labels=pair, night=night, style="", held_out=True)
            drawn.append((scene, [*pair, "night" if night else "day"]))
    else:
        for style, i in product(STYLES, range(images_per_class)):
            label = STYLE_OBJECTS[i % len(STYLE_OBJECTS)]
            drawn.append((draw_scene(rng, labels=(label,), night=False, style=style, held_out=True), [style, label]))
    return [drawn[i] for i in rng.permutation(len(drawn))]


def write_set(name: str, folder: Path, *, images_per_class: int = 5, seed: int = 0) -> list[Path]:
    """Write a set to `folder`/images and its classes to `folder`/classes.json; returns the pictures' paths."""
    pictures = Path(folder) / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    classes, paths = {}, []
    for i, (scene, labels) in enumerate(draw_set(name, images_per_class=images_per_class, seed=seed)):
        path = pictures / f"image-{i:02d}.png"
        Image.fromarray(scene.image).save(path, optimize=True)
        classes[path.name] = labels
        paths.append(path)
    lines = (f"  {json.dumps(file)}: {json.dumps(labels)}" for file, labels in classes.items())
    (Path(folder) / "classes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return paths


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m concepts_cli.mini.sets", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    for path in write_set(chosen.name, chosen.folder, images_per_class=chosen.images_per_class, seed=chosen.seed):
        print(path)


if __name__ == "__main__":
    main()
