"""How long a training will take, from the time of a call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from concepts_cli.core.teaching import LEVELS
from concepts_cli.recipe import load_recipe
from concepts_cli.training import estimate
from concepts_cli.training.estimate import expected_seconds


@pytest.fixture
def calls(monkeypatch):
    """A row takes a second, and with its gradient three."""
    monkeypatch.setattr(estimate, "_seconds_per_row", lambda model, rows: (1.0, 3.0))


def test_a_step_is_a_call_with_gradient_per_image_and_concept_and_one_without(calls, recipe_file):
    recipe = load_recipe(recipe_file)  # 2 concepts, 2 x 2 images a step
    assert expected_seconds(recipe, 6, 5, None, starts=False) == 5 * (4 * 2 * 3 + 4)
    few = replace(recipe, concepts=replace(recipe.concepts, count=9))
    few = replace(few, train=replace(few.train, concepts_per_image=2))
    assert expected_seconds(few, 6, 5, None, starts=False) == 5 * (4 * 2 * 3 + 4)


def test_a_start_from_the_images_learns_from_some_and_asks_about_all(calls, recipe_file):
    recipe = load_recipe(recipe_file)
    times = [expected_seconds(recipe, images, 0, None, starts=True) for images in (6, 12, 64, 5000)]
    assert 0 < times[0] < times[1] < times[2]
    assert times[3] - times[2] == (5000 - 64) * 2 * LEVELS  # two words, at every level, of each further image


def test_concepts_that_share_images_take_rounds(calls, recipe_file):
    recipe = load_recipe(recipe_file, ["concepts.start=images", "concepts.count=6"])
    alone = replace(recipe, weights=replace(recipe.weights, constraint="softmax"))
    shared = expected_seconds(recipe, 9, 0, None, starts=True)
    assert shared > 2 * expected_seconds(alone, 9, 0, None, starts=True)


def test_calls_are_timed_on_the_model(tiny_model, recipe_file):
    assert expected_seconds(load_recipe(recipe_file), 6, 5, tiny_model, starts=True) > 0


def test_no_time_is_said_if_a_call_does_not_fit_into_memory(tiny_model, recipe_file, monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(tiny_model, "predict", full)
    assert expected_seconds(load_recipe(recipe_file), 6, 5, tiny_model, starts=False) is None
