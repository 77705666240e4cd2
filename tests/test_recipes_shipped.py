"""Every YAML in recipes/ loads, and says what its comments and the paper say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.recipe import dump_recipe, load_recipe, shipped_recipes

RECIPES = Path(__file__).parents[1] / "recipes"
ALL = sorted(RECIPES.glob("*.yaml"))
BUILT_IN = [path for path in ALL if "\nmodel: mini\n" in path.read_text()]
PUBLISHED = [path for path in ALL if path not in BUILT_IN]


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
    for image in images:
        with Image.open(image) as file:
            assert (file.size, file.format) == ((64, 64), "PNG")


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
    assert len(ALL) == 14
