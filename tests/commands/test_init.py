"""`init`: the recipe that a folder would be trained with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.init import init
from concepts_cli.errors import UcdError
from concepts_cli.recipe import choose_recipe, load_recipe
from concepts_cli.training.choosing import at_hand


@pytest.mark.parametrize("model", [None, "mini", "someone/sd"])
@pytest.mark.parametrize("output", [None, "elsewhere/images.yaml"])
def test_it_is_the_recipe_that_train_would_use(workplace, image_folder, model, output):
    if output:
        Path(output).parent.mkdir()
    path = init(image_folder, model=model, output=output and Path(output), device="cpu")
    assert path == Path(output or "images.yaml")
    expected = choose_recipe(image_folder, {"model": model} if model else {}, at_hand("cpu"))
    assert load_recipe(path) == expected


@pytest.mark.parametrize("model", ["mini", "someone/sd"])
def test_each_value_has_its_reason(workplace, image_folder, model):
    lines = init(image_folder, model=model, device="cpu").read_text().splitlines()
    assert "#     ucd train images.yaml" in lines and "  images: images  # 6 images" in lines
    settings = [line for line in lines if line and not line.startswith("#") and not line.endswith(":")]
    assert all(re.fullmatch(r" {0,2}\w+: \S.*  # \S.*", line) for line in settings)
    named = {line.split(":")[0].strip() for line in settings}
    assert {"model", "images", "resolution", "count", "batch_size"} <= named and len(named) < 20


def test_odd_folders_are_written_so_that_they_are_read(workplace, image_folder):
    odd = workplace / "a $HOME: #1's"
    image_folder.rename(odd)
    path = init(odd, device="cpu")
    assert load_recipe(path).data.images == (str(odd),) and path.name == "a-HOME-1-s.yaml"
    outside = workplace / "inside"
    outside.mkdir()
    os.chdir(outside)
    assert load_recipe(init(odd, device="cpu")).data.images == (str(odd),)


def test_a_list_does_too(workplace, image_folder):
    (workplace / "photos.csv").write_text("path\nimages/0.png\nimages/3.png\n")
    path = init(Path("photos.csv"), device="cpu")
    assert path.name == "photos.yaml" and "images: photos.csv  # 2 images" in path.read_text()
    assert load_recipe(path).data.images == (str(workplace / "photos.csv"),)


def test_mistakes(workplace, image_folder):
    (workplace / "empty").mkdir()
    init(image_folder, device="cpu")
    for folder, problem in ((image_folder, "exists already"), ("nowhere", "no such folder"), ("empty", "no images in")):
        with pytest.raises(UcdError, match=problem):
            init(Path(folder), device="cpu")
    init(image_folder, device="cpu", force=True)


def test_from_the_command_line(workplace, image_folder):
    result = CliRunner().invoke(app, ["init", "images", "--device", "cpu"])
    assert (result.exit_code, result.stdout) == (0, "images.yaml\n") and "ucd train images.yaml" in result.stderr
    result = CliRunner().invoke(app, ["init", "images", "--device", "cpu", "--force", "--json"])
    assert json.loads(result.stdout) == {"path": "images.yaml"}
    planned = json.loads(CliRunner().invoke(app, ["train", "images.yaml", "--dry-run", "--json"]).stdout)
    assert planned == json.loads(CliRunner().invoke(app, ["train", "images", "--dry-run", "--json"]).stdout)
