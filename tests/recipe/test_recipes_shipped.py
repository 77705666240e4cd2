"""Every YAML in recipes/ loads, and says what its comments and the paper say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.commands.train import plan
from concepts_cli.recipe.loading import load_recipe, shipped_recipes
from concepts_cli.recipe.writing import dump_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.glob("*.yaml"))
BUILT_IN = [path for path in ALL if "\nmodel: mini\n" in path.read_text()]
TUNED = [path for path in ALL if path.stem.endswith("-tuned")]
PUBLISHED = [path for path in ALL if path not in BUILT_IN + TUNED]


@pytest.fixture(autouse=True)
def data_folder(monkeypatch):
    monkeypatch.setenv("UCD_DATA", "/data")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_loads_and_dumps(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_its_header_has_the_command_and_the_data(path):
    header = path.read_text().partition("\nmodel:")[0]
    assert all(line.startswith("#") or not line for line in header.splitlines())
    assert f"ucd train {path.stem}\n" in header
    assert "# Data: " in header


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_its_images_are_there_with_a_label_each(path):
    recipe = load_recipe(path)
    (folder,) = recipe.data.images
    images = sorted(Path(folder).iterdir())
    labels = json.loads(Path(recipe.evaluate.labels).read_text())
    assert sorted(labels) == [image.name for image in images]
    named = {label for classes in labels.values() for label in classes}
    assert set(recipe.evaluate.class_names) <= named
    assert len(recipe.evaluate.class_names) == recipe.concepts.count
    if recipe.evaluate.held_out:
        (held_out,) = map(Path, recipe.evaluate.held_out)
        images += sorted(held_out.iterdir())
        known = json.loads(Path(recipe.evaluate.held_out_labels).read_text())
        assert {label for classes in known.values() for label in classes} == set(recipe.evaluate.class_names)
        assert sorted(known) == sorted(path.name for path in held_out.iterdir())
    for image in images:
        with Image.open(image) as file:
            assert (file.size, file.format) == ((64, 64), "PNG")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_dry_runs(path, workplace, monkeypatch):
    """With pictures where those of others are expected."""
    monkeypatch.setenv("UCD_DATA", str(workplace))
    for place in load_recipe(path).data.images:
        if path not in BUILT_IN:
            Path(place).mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (40, 30), (40 * n, 0, 0)).save(Path(place) / f"{n}.JPEG", "JPEG")
    recipe = load_recipe(path)
    planned = plan(recipe)
    each = min(recipe.data.images_per_folder or 6, 6)
    if path not in BUILT_IN:
        assert planned.images == each * len(recipe.data.images)
    settings = recipe.train
    assert planned.steps == (settings.max_steps or planned.images * settings.iterations_per_image)
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_tuned_settings_train_on_the_same_data_in_half_of_the_steps(path):
    tuned, published = load_recipe(path), load_recipe(path.with_name(path.name.replace("-tuned", "")))
    assert tuned.data.images == published.data.images and tuned.evaluate == published.evaluate
    assert tuned.train.iterations_per_image * 2 <= published.train.iterations_per_image
    built_in = load_recipe(RECIPES / "quickstart.yaml")
    for name in ("learning_rate", "weights_learning_rate", "scale_learning_rate"):
        assert getattr(tuned.train, name) == getattr(built_in.train, name)
    assert (tuned.weights, tuned.concepts) == (built_in.weights, built_in.concepts)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_settings(path):
    recipe = load_recipe(path)
    assert recipe.data.resolution == 512
    train, kind = recipe.train, path.stem.partition("-")[0]
    assert train.max_steps is None
    assert (train.batch_size, train.gradient_accumulation, train.learning_rate) == (2, 8, 5e-3)
    assert train.scale_learning_rate
    assert recipe.weights.constraint == "none"
    expected = {"imagenet": (5, 120, "object"), "ade20k": (0.2, 100, "object")}.get(kind, (0.2, 1000, None))
    assert (recipe.weights.initial, train.iterations_per_image, recipe.concepts.property) == expected
    assert all(image.startswith("/data/") for image in recipe.data.images)
    if kind == "imagenet":
        assert (recipe.evaluate.clip_threshold, recipe.evaluate.resnet_threshold) == (0.3, 10)
        assert recipe.data.images_per_folder * len(recipe.data.images) == 25


def test_class_names_are_those_of_the_folders():
    timm_data = pytest.importorskip("timm.data")
    info = timm_data.ImageNetInfo()
    for path in PUBLISHED:
        recipe = load_recipe(path)
        if not path.stem.startswith("imagenet"):
            continue
        for folder, name in zip(recipe.data.images, recipe.evaluate.class_names, strict=True):
            names = info.label_name_to_description(Path(folder).name).split(", ")
            assert name in names


def test_all_are_shipped():
    assert set(shipped_recipes()) == {path.stem for path in ALL}
    assert len(ALL) == 15
