"""Which recipe a training goes by, and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from concepts_cli.errors import UcdError
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.training_folder import recipe_and_folder
from tests.runs.folder import small_run


@pytest.fixture
def begun(tiny_run, recipe_file):
    """A second run of the recipe, of 7 steps rather than 3."""
    recipe, folder = recipe_and_folder(recipe_file, ["train.max_steps=7"], None, resume=False)
    assert (recipe.train.max_steps, folder) == (7, None)
    from concepts_cli.runs.run import Run

    run = Run(Path("runs/tiny-2"))
    run.path.mkdir()
    run.begin(recipe, tiny_run.images)
    return run


@pytest.mark.parametrize("source", ["runs/tiny-2", "runs/tiny-2/recipe.yaml", "runs/tiny-2/", "tiny.yaml"])
def test_a_run_is_resumed_by_its_own_recipe(begun, source):
    recipe, folder = recipe_and_folder(source, [], None, resume=True)
    assert folder == begun.path and recipe == load_recipe(begun.path / "recipe.yaml")
    assert recipe.train.max_steps == 7
    changed, _ = recipe_and_folder(source, ["train.max_steps=9"], None, resume=True)
    assert changed.train.max_steps == 9


def test_the_output_says_which_run_is_resumed(begun, recipe_file, tmp_path):
    assert recipe_and_folder(recipe_file, [], begun.path, resume=True)[0].train.max_steps == 7
    other = tmp_path / "other"
    assert recipe_and_folder(recipe_file, [], other, resume=True) == (load_recipe(recipe_file), other)  # not begun
    assert recipe_and_folder("runs/tiny-2/recipe.yaml", [], other, resume=True)[1] == other


def test_a_run_is_no_recipe_unless_it_is_resumed(begun):
    with pytest.raises(UcdError, match="is a folder, not a recipe"):
        recipe_and_folder("runs/tiny-2", [], None, resume=False)
    recipe, folder = recipe_and_folder(load_recipe("runs/tiny-2/recipe.yaml"), {}, None, resume=True)
    assert folder == begun.path and recipe.name == "tiny"


def test_the_command_that_resumes_is_whole(tmp_path):
    run = small_run(tmp_path / "with space")
    assert run.resume_command == f"ucd train '{tmp_path / 'with space'}' --resume"
