"""A run in a notebook: every call does what the command of that name does, returns it, and prints nothing."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import concepts_cli as ucd
from concepts_cli.commands.compose import compose
from concepts_cli.commands.encode import encode
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import visualize
from concepts_cli.interface.options import SampleOptions, sample_settings
from concepts_cli.output import Output
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import SampleSettings

QUIET = Output(quiet=True, json=True)


@pytest.fixture
def run(tiny_run, capfd):
    """The tiny run, opened. Nothing that a test does with it may print."""
    capfd.readouterr()
    yield ucd.open_run(tiny_run.path, device="cpu")
    assert capfd.readouterr() == ("", "")


def same(pictures, paths) -> bool:
    """Whether these are the pictures in those files, to the bit."""
    files = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return len(pictures) == len(files) and all(map(np.array_equal, map(np.asarray, pictures), files))


def test_a_run_is_found_as_the_commands_find_it(run, tiny_run, monkeypatch):
    assert ucd.open_run(tiny_run.name).path == ucd.open_run().path == tiny_run.path
    with pytest.raises(ucd.UcdError, match="no run at tin"):
        ucd.open_run("tin")


def test_what_a_run_holds(run, tiny_run):
    assert run.concepts == ("t1", "t2")
    torch.testing.assert_close(run.weights, tiny_run.weights, rtol=0, atol=0)
    torch.testing.assert_close(run.embeddings, tiny_run.embeddings, rtol=0, atol=0)
    assert run.images == tiny_run.images and run.recipe == tiny_run.recipe
    assert "2 concepts in 6 images" in repr(run)


def test_samples_are_those_of_the_command_and_leave_nothing_behind(run, tiny_run):
    before = sorted(tiny_run.path.rglob("*"))
    pictures = run.sample("t1", n=2, seed=3)
    assert sorted(tiny_run.path.rglob("*")) == before
    assert pictures[1].info["prompt"] == "a photo of a <t1>" and pictures[1].info["seed"] == "4"
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=2, seed=3)
    made = sample(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=QUIET)
    assert same(pictures, [picture.path for picture in made])


def test_concepts_and_prompts_are_told_apart(run):
    def prompts(what):
        return [picture.info["prompt"] for picture in run.sample(what, n=1)]

    assert prompts(["a <t2> in the red", "<t1>"]) == ["a photo of a <t1>", "a <t2> in the red"]
    assert prompts("all") == ["a photo of a <t1>", "a photo of a <t2>"]
    assert prompts([]) == []
    with pytest.raises(ucd.UcdError, match="no concept 't9'"):
        run.sample("t9")


def test_a_named_folder_is_written_as_the_command_writes_it(run, workplace):
    pictures = run.sample("t1", n=2, output="there")
    assert same(pictures, [workplace / "there/t1/00000.png", workplace / "there/t1/00001.png"])
    again = run.sample("t1", n=2, output=workplace / "there")
    assert [picture.info for picture in again] == [picture.info for picture in pictures]
    other = run.sample("t1", n=2, steps=3, output="there")
    assert same(other, [workplace / "there/steps=3/t1/00000.png", workplace / "there/steps=3/t1/00001.png"])
    run.sample("t1", n=2, steps=3, output="there", force=True)
    assert same(other, [workplace / "there/t1/00000.png", workplace / "there/t1/00001.png"])


def test_compositions_are_those_of_the_command(run, tiny_run):
    pictures = run.compose({"t1": 5, "red": -2.5}, n=2)
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=2)
    made = compose(tiny_run, ["t1=5", "red=-2.5"], settings=settings, device="cpu", out=QUIET)
    assert same(pictures, [picture.path for picture in made])
    assert same(run.compose(["t1=5", "red=-2.5"], n=2), [picture.path for picture in made])


def test_names_and_weights_need_no_escaping(run):
    def prompts(terms):
        return run.compose(terms, n=1)[0].info["prompt"]

    assert prompts({"mail me @home": 2, "1 + 1 = 2": 3.5}) == "2 * 'mail me @home' + 3.5 * '1 + 1 = 2'"
    assert prompts({"t1@left": 5, "a cat@0.5,0,1,1": 2}) == "5 * 'a photo of a <t1>' at left + 2 * 'a cat' at 0.5,0,1,1"
    with pytest.raises(ucd.UcdError, match="no such place: 'lft'"):
        run.compose({"t1@lft": 5})


def test_compositions_like_an_image_and_sweeps(run, tiny_run, image_folder, workplace):
    image = image_folder / "1.png"
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=1)
    made = compose(tiny_run, ["t1=0"], like=image, settings=settings, device="cpu", out=QUIET)
    assert same(run.compose({"t1": 0}, like=image, n=1), [made[0].path])
    swept = run.compose(["red=1"], sweep="t1=0:4:3", output="swept")
    assert [picture.info["guidance_scale"] for picture in swept] == ["1", "1 2", "1 4"]
    assert list((workplace / "swept").rglob("sweep.png"))


def test_a_composition_with_another_run_leaves_this_runs_concepts_in_the_model(run, tiny_run, workplace, recipe_file):
    overrides = {"train.seed": 5}
    other = ucd.discover(recipe_file, overrides=overrides, output="runs/other", device="cpu").finish()
    before = run.sample("t1", n=1)[0]
    run.compose({"t1": 3, "other:t1": 3}, n=1)
    maps = run.heat_maps(run.images[0].path, concepts="t1", steps=2)
    fresh = ucd.open_run(tiny_run.path, device="cpu").heat_maps(run.images[0].path, concepts="t1", steps=2)
    torch.testing.assert_close(maps[0].map, fresh[0].map)
    assert np.array_equal(np.asarray(before), np.asarray(run.sample("t1", n=1)[0]))
    assert not torch.equal(*(one.embeddings["text_encoder"] for one in (other, run)))


def test_weights_of_one_image_and_of_several(run, tiny_run, image_folder):
    paths = sorted(image_folder.glob("*.png"))[:2]
    document = encode(tiny_run, paths, steps=4, device="cpu", out=QUIET)
    expected = torch.tensor([list(image["weights"].values()) for image in document["images"]])
    torch.testing.assert_close(run.encode(paths, steps=4), expected, rtol=0, atol=0)
    torch.testing.assert_close(run.encode(paths[1], steps=4), expected[1], rtol=0, atol=0)
    torch.testing.assert_close(run.encode(Image.open(paths[1]), steps=4), expected[1], rtol=0, atol=0)
    assert run.encode(image_folder, steps=1).shape == (6, 2)


def test_weights_are_written_with_their_losses(run, image_folder, workplace):
    weights = run.encode(image_folder / "1.png", steps=1, output="weights.json")
    (image,) = json.loads((workplace / "weights.json").read_text())["images"]
    assert list(image["weights"].values()) == pytest.approx(weights.tolist()) and image["loss"] > 0
    with pytest.raises(ucd.UcdError, match="exists already"):
        run.encode(image_folder / "1.png", steps=1, output="weights.json")


def test_an_image_in_memory_is_its_own(run, image_folder):
    image = Image.open(image_folder / "0.png").convert("RGB")
    assert run.encode(image, steps=1).shape == (2,)
    changed = Image.open(image_folder / "0.png")
    changed.paste((255, 0, 0), (0, 0, 20, 20))
    assert not torch.equal(run.encode(changed, steps=4), run.encode(image_folder / "0.png", steps=4))


def test_heat_maps_are_those_of_the_command(run, tiny_run):
    path = Path(run.images[2].path)
    maps = run.heat_maps(path, steps=3)
    settings = dataclasses.replace(tiny_run.recipe.sample, steps=3, guidance_scale=1.0)
    drawn, _ = visualize(
        tiny_run, images=[path], settings=settings, maps=MapSettings(save_maps=True), device="cpu", out=QUIET
    )
    assert [heat_map.concept for heat_map in maps] == ["t1", "t2"]
    for heat_map, expected in zip(maps, drawn, strict=True):
        torch.testing.assert_close(heat_map.map, torch.from_numpy(np.load(expected.map)))
        assert heat_map.image == path and heat_map.weight == expected.weight
        assert heat_map.coverage == pytest.approx(expected.coverage)
    assert maps.sheet.width > maps.sheet.height


def test_heat_maps_of_the_training_images(run):
    maps = run.heat_maps(training_images=True, concepts="t1", steps=1)
    assert [heat_map.image for heat_map in maps] == [Path(image.path) for image in run.images]


def test_heat_maps_of_the_kind_daam_take_a_seed(run):
    path, maps = run.images[0].path, ucd.MapSettings(kind="daam")
    first, second = (run.heat_maps(path, concepts="t1", steps=1, seed=seed, maps=maps)[0] for seed in (3, 4))
    assert not torch.equal(first.map, second.map)


def test_heat_maps_of_what_is_made(run):
    maps = run.heat_maps(n=1, concepts="t2")
    assert [(heat_map.concept, heat_map.seed, heat_map.image) for heat_map in maps] == [("t2", 0, None)]
    words = run.heat_maps(prompt="a red <t1>", words="red", n=1, seed=4)
    assert [(heat_map.concept, heat_map.seed) for heat_map in words] == [("red", 4)]
    terms = run.heat_maps(terms={"t1": 3, "blue": 2}, n=1, maps=ucd.MapSettings(kind="attention"))
    assert [heat_map.concept for heat_map in terms] == ["t1", "blue"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.sample("t1", stepz=3), "stepz: unknown key; did you mean steps?"),
        (lambda run: run.sample("t1", steps=0), "steps: got 0, expected a whole number from 1 to 10,000"),
        (lambda run: run.compose({"t1": "x"}), "got x, expected a number from -1,000 to 1,000"),
        (lambda run: run.encode(3), "int is not an image"),
        (lambda run: run.heat_maps(run.images[0].path, seed=3), "seed: not used for real images"),
        (lambda run: ucd.MapSettings(kind="contrst"), "no kind of map 'contrst'"),
        (lambda run: run.heat_maps([]), "an empty list of images"),
        (lambda run: run.heat_maps("gone.png"), "no such folder or image: gone.png"),
        (lambda run: run.evaluate("clop"), "no metric 'clop'"),
    ],
)
def test_a_mistake_is_raised_and_not_printed(run, call, message):
    with pytest.raises(ucd.UcdError) as raised:
        call(run)
    assert message in raised.value.message


def test_evaluation(run, tiny_run):
    evaluation = run.evaluate("assignment")
    assert list(evaluation) == ["assignment"]
    written = json.loads((tiny_run.path / "evaluation.json").read_text())
    assert evaluation["assignment"] == written["metrics"]["assignment"]
    assert "<td>matched accuracy</td>" in evaluation._repr_html_()
    assert run.report() == tiny_run.path / "report.html"


def test_what_a_notebook_shows(run, image_folder):
    pictures = run.sample("all", n=2)
    maps = run.heat_maps(run.images[0].path, steps=2)
    for shown in (run, pictures, maps, maps[0]):
        assert Image.open(io.BytesIO(shown._repr_png_())).format == "PNG"
    (image_folder / "0.png").unlink()
    assert run._repr_png_() is None


def test_the_model_is_loaded_once(run, monkeypatch):
    from concepts_cli import models

    loaded = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda name, **how: loaded.append(name) or load(name, **how))
    run.sample("t1", n=1)
    run.compose({"t1": 1}, n=1)
    run.encode(run.images[0].path, steps=1)
    run.heat_maps(run.images[0].path, steps=1)
    assert len(loaded) == 1


def test_options_are_the_recipes(run):
    hints = get_type_hints(SampleSettings)
    del hints["num_images"]  # `n`
    assert get_type_hints(SampleOptions) == hints
    defaults = sample_settings(run._folder, 3, {})
    assert defaults == dataclasses.replace(run.recipe.sample, num_images=3)
    assert sample_settings(run._folder, 3, dataclasses.asdict(defaults)) == defaults
