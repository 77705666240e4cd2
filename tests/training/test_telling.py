"""What a training says before, during and after its steps."""

from __future__ import annotations

from dataclasses import replace

import torch

from concepts_cli.recipe import load_recipe
from concepts_cli.training import telling
from concepts_cli.training.telling import found, intention


def test_what_it_will_do_and_for_how_long(tiny_model, recipe_file, monkeypatch):
    def said(recipe, seconds, **how):
        monkeypatch.setattr(telling, "expected_seconds", lambda *_, **__: seconds)
        return intention(recipe, 6, tiny_model, **how)

    recipe = load_recipe(recipe_file, ["model=mini"])
    monkeypatch.setattr(telling, "device_words", lambda device: "two cores")
    base = "2 concepts in 6 images, with mini on two cores: "
    assert said(recipe, 21, starts=True) == f"{base}3 steps, about 30 s"
    assert said(recipe, 61, done=2, starts=False) == f"{base}1 step, about 2 min"
    assert said(recipe, 2 * 3600 + 1, done=5, starts=False) == f"{base}0 steps, about 2 h 10 min"
    assert said(recipe, None, starts=False) == f"{base}3 steps"
    from_images = replace(recipe, concepts=replace(recipe.concepts, start="images"))
    assert said(from_images, 5, starts=True) == f"{base}a start from the images, then 3 steps, about 10 s"
    assert said(from_images, 5, starts=False) == f"{base}3 steps, about 10 s"
    compiled = replace(recipe, train=replace(recipe.train, compile=True))
    assert said(compiled, 5, starts=False) == f"{base}3 steps"


def test_what_it_found(tiny_run):
    tiny_run.weights = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2)
    assert found(tiny_run) == "2 concepts in 6 images: t1 is strongest in 4, t2 in 2"
    assert found(tiny_run, most=1) == "2 concepts in 6 images: t1 is strongest in 4 and 1 more"
