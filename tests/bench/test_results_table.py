"""The module behind the README's table of results: resumable, and its Markdown is what the runs say."""

import json
from dataclasses import replace

import pytest

from concepts_cli.metrics import inputs
from concepts_cli.recipe import load_recipe
from tests.bench import results
from tests.bench.results import Result, markdown, result


def test_a_row_a_measure_and_method_and_a_column_a_recipe():
    found = [
        Result("s1", "a", 0, 0.9, 1.0, 0.8, 0.0),
        Result("s1", "a", 1, 0.7, 1.0, 0.6, 0.1),
        Result("s2", "a", 0, 0.5, 0.4, 0.4, 0.4),
        Result("s1", "b", 0, 0.2, 0.1, 0.0, 1.25),
        Result("s2", "b", 0, 0.4, 0.3, 0.2, 0.75),
    ]
    lines = markdown(found).splitlines()
    assert lines[0] == "| | s1 | s2 | average |"
    assert lines[2] == "| images matched %, a | 80.0 ± 14.1 | 50.0 | 70.0 ± 20.0 |"
    assert lines[-2] == "| ResNet accuracy % / KL, a | 70.0 ± 14.1 / .0500 | 40.0 / .4000 | 60.0 ± 20.0 / .1667 |"
    assert lines[-1] == "| ResNet accuracy % / KL, b | 0.0 / 1.2500 | 20.0 / .7500 | 10.0 ± 14.1 / 1.0000 |"


class Colours:
    """What scores here: the mean of two channels."""

    name, threshold, smoothing, caveat = "colours", 0.1, 1e-8, None

    def check(self, names):
        assert list(names) == ["cat", "dog"]

    def features(self, paths):
        import numpy as np

        from concepts_cli.data.images import open_image

        return np.array([np.asarray(open_image(path)).mean(axis=(0, 1))[:2] / 255 for path in paths])

    def score(self, features, class_names):
        return features


def test_what_is_finished_is_not_done_again(workplace, recipe_file, monkeypatch):
    monkeypatch.setattr(inputs, "load_resnet", lambda name, device: Colours())
    folder = workplace / "out" / "tiny"
    first = result(folder, str(recipe_file), "composed", 3, num_images=2, device="cpu")
    said = json.loads((folder / "evaluation.json").read_text())["metrics"]
    assert said["resnet"]["images"] == 4 and first.accuracy == said["resnet"]["accuracy"]
    assert first.images_matched == pytest.approx(said["assignment"]["matched_accuracy"])
    assert "seed: 3" in (folder / "recipe.yaml").read_text()
    with monkeypatch.context() as patched:
        for name in ("train", "make_missing", "evaluate"):
            patched.setattr(results, name, lambda *_, **__: pytest.fail("done again"))
        assert result(folder, str(recipe_file), "composed", 3, num_images=2, device="cpu") == first
    result(folder, str(recipe_file), "composed", 3, num_images=3, device="cpu")
    assert len(list(folder.glob("samples/t?/*.png"))) == 6


def test_as_published_keeps_the_images_and_classes_only():
    recipe = results.recipe_for("mini-s2", results.AS_PUBLISHED, {"train.seed": 3, "train.max_steps": 9})
    own, paper = load_recipe("mini-s2"), load_recipe("imagenet", {"data.images": "x"})
    assert (recipe.model, recipe.data.images, recipe.evaluate) == (own.model, own.data.images, own.evaluate)
    assert (recipe.weights, recipe.concepts) == (paper.weights, paper.concepts)
    assert replace(recipe.train, seed=4, max_steps=None) == paper.train and recipe.train.seed == 3
    assert results.recipe_for("mini-s2", "ti-outside-kmeans", {}).train.method == "ti-kmeans"
