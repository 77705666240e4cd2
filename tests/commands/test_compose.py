"""`compose`: terms, and the pictures of their composition."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.commands.compose import compose
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.core.places import parse_place
from concepts_cli.core.sampling import Term
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures.likeness import image_weights, like_terms
from concepts_cli.pictures.names import public_term
from concepts_cli.pictures.terms import beside, parse_sweep, parse_term
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run


@pytest.fixture
def other_run(tiny_run):
    """A run of the same model with concepts of its own, in the style's words."""
    folder = tiny_run.path.parent / "other"
    shutil.copytree(tiny_run.path, folder)
    recipe = (folder / "recipe.yaml").read_text().replace("property: object", "property: style")
    (folder / "recipe.yaml").write_text(recipe)
    other = Run(folder)
    embeddings = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    other.save_concepts(other.tokens, {"text_encoder": embeddings}, other.weights)
    return Run(folder)


def make(run, terms, *, num_images=2, **options):
    settings = dataclasses.replace(run.recipe.sample, num_images=num_images, **options.pop("settings", {}))
    return compose(run, terms, settings=settings, device="cpu", out=Output(quiet=True), **options)


def pixels(picture) -> np.ndarray:
    with Image.open(picture.path) as image:
        return np.asarray(image).astype(int)


def test_concepts_leave_room_for_one_another(tiny_run):
    recipe = (tiny_run.path / "recipe.yaml").read_text()
    (tiny_run.path / "recipe.yaml").write_text(recipe.replace("prompt_beside: null", "prompt_beside: a {}"))
    run = Run(tiny_run.path)

    def prompts(*texts, of=run):
        return [term.prompt for term in beside(of, [parse_term(of, text, 5.0) for text in texts])]

    assert prompts("t1", "t2", "at night") == ["a <t1>", "a <t2>", "at night"]
    assert prompts("t1", "at night") == ["a photo of a <t1>", "at night"]
    assert prompts("t1@left", "t1@right") == ["a photo of a <t1>"] * 2  # alone in its place
    assert prompts("t1", "t2=0.5") == ["a photo of a <t1>", "a photo of a <t2>"]  # too little to be seen
    assert prompts("t1", "t2=-1") == ["a photo of a <t1>", "a photo of a <t2>"]
    assert prompts("t1", "t2", of=tiny_run) == ["a photo of a <t1>", "a photo of a <t2>"]


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("t1", Term("a photo of a <t1>", 7.5)),
        ("<t2>=3", Term("a photo of a <t2>", 3.0)),
        ("t2=-1.5", Term("a photo of a <t2>", -1.5)),
        ("at night", Term("at night", 7.5)),
        ("a = b=2", Term("a = b", 2.0)),
        ("tiny:t2=3", Term("a photo of a <t2>", 3.0)),
        ("runs/tiny:<t1>", Term("a photo of a <t1>", 7.5)),
        ("at night: stars", Term("at night: stars", 7.5)),
        ("<t1> in <t2>'s snow=2", Term("<t1> in <t2>'s snow", 2.0)),
        ("t1@left=5", Term("a photo of a <t1>", 5.0, place=parse_place("left"))),
        ("snow @ 0,0,1,0.5", Term("snow", 7.5, place=parse_place("0,0,1,0.5"))),
    ],
)
def test_terms(tiny_run, text, term):
    assert parse_term(tiny_run, text, 7.5) == term


@pytest.mark.parametrize(
    "text",
    [
        "t9",
        "T9",
        "<sofa>",
        "a <t9> in snow",
        "t1=much",
        "t1=",
        "=3",
        "t1=nan",
        "t1=inf",
        "t1=2=3",
        "<t1>=2=3",
        "nowhere:t1",
        "tiny:t9",
        "a <other:t1> in snow",
    ],
)
def test_terms_that_mean_nothing_are_refused(tiny_run, text):
    with pytest.raises(UcdError):
        parse_term(tiny_run, text, 7.5)


def test_a_composition_is_made_and_says_what_it_is(tiny_run):
    made = make(tiny_run, ["t1", "t2=-2"], grid=True)
    assert len(made) == 3
    with Image.open(made[1].path) as picture:
        assert picture.text["prompt"] == "7.5 * 'a photo of a <t1>' + -2 * 'a photo of a <t2>'"
        assert picture.text["seed"] == "1"


@pytest.mark.parametrize(
    ("typed", "public"),
    [
        *((text, text) for text in ("t1", "other:t1=4.5", "at night=-2", "runs/x:t1@left=1", "a: b@c")),
        ("/home/alice/runs/x:t1@/home/alice/mask.png=3", "x:t1@mask.png=3"),
        ("t3=+2", "t3=+2"),
    ],
)
def test_a_term_as_typed_names_no_folder(typed, public):
    assert public_term(typed) == public


def test_a_composition_carries_the_command_that_makes_it(tiny_run, other_run, image_folder):
    def command(*arguments, **options):
        made = make(tiny_run, *arguments, **options)
        (said,) = {Image.open(one.path).text.get("command") for one in made}
        return said

    base = f"--run {tiny_run.path}"
    assert command(["t1@left=5", f"{other_run.path}:t2=1.5"], grid=True) == (
        f"ucd compose t1@left=5 {other_run.path}:t2=1.5 --grid --num-images 2 {base}"
    )
    assert command(["t1"], sweeps=["t2=0:4:3"], num_images=1) == f"ucd compose t1 --sweep t2=0:4:3 {base}"
    like = image_folder / "0.png"
    assert command(["t1=0"], like=like, num_images=4) == f"ucd compose t1=0 --like 0.png {base}"
    assert command([("mail me @home", 2.0)]) is None, "the command would read a place"


def test_a_composition_of_other_settings_has_a_folder_and_sheet_of_its_own(tiny_run):
    first = make(tiny_run, ["t1"], grid=True)
    other = make(tiny_run, ["t1"], grid=True, settings={"steps": 3})
    assert {Path(one.path).parent for one in other} == {Path(first[0].path).parent / "steps=3"}
    assert make(tiny_run, ["t1"], grid=True) == first


def test_composing_one_term_is_sampling_it(tiny_run):
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=2)
    sampled = sample(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=Output(quiet=True))
    for one, other in zip(make(tiny_run, ["t1=7.5", "t2=0"]), sampled, strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(other))


def test_other_runs_are_composed_with_one_model_in_memory(tiny_run, other_run, monkeypatch):
    from concepts_cli import models

    loaded = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda name, **how: loaded.append(name) or load(name, **how))
    mixed = make(tiny_run, ["t1=4", "other:t1=3"])
    assert loaded == [tiny_run.recipe.model]
    with Image.open(mixed[0].path) as picture:
        assert picture.text["prompt"] == ("4 * 'a photo of a <t1>' + 3 * 'a painting in the style of <t1>' of other")
        assert picture.text["run"] == "tiny + other"
    turned = make(other_run, ["t1=3", "tiny:t1=4"])
    np.testing.assert_allclose(pixels(mixed[0]), pixels(turned[0]), atol=1)
    own = make(tiny_run, ["t1=4", "a painting in the style of <t1>=3"])
    assert np.abs(pixels(mixed[0]) - pixels(own[0])).max() > 2


def test_concepts_with_names_compose_like_others(tiny_run, recipe_file):
    named = train(
        load_recipe(recipe_file, ["concepts.tokens=[koala, panda]", "name=named"]), device="cpu", out=Output(quiet=True)
    )
    (own,) = make(named, ["koala=4"], num_images=1, output=named.path / "own")
    assert own.prompt == "a photo of a <koala>"
    for written in ("named:koala=4", "named:<koala>=4"):
        others: dict[str, Run] = {}
        term = parse_term(tiny_run, written, 1.0, others)
        assert (term.prompt, list(others)) == ("a photo of a <koala>", [str(named.path)])
    assert parse_term(tiny_run, "named:zebra", 1.0).prompt == "named:zebra"  # text
    with pytest.raises(UcdError, match="no concept 'koal'"):
        make(named, ["a <koal> in snow"])


def test_runs_of_other_models_compose_where_they_can(tiny_run, other_run, tiny_folder, tiny_v_folder, tmp_path):
    def with_model(folder):
        recipe = (other_run.path / "recipe.yaml").read_text().replace(f"model: {tiny_folder}", f"model: {folder}")
        (other_run.path / "recipe.yaml").write_text(recipe)

    shared = make(tiny_run, ["t1=4", "other:t1=3"])
    twin = tmp_path / "twin"
    shutil.copytree(tiny_folder, twin)
    with_model(twin)
    apart = make(tiny_run, ["t1=4", "other:t1=3"], output=tmp_path / "apart")
    np.testing.assert_allclose(pixels(shared[0]), pixels(apart[0]), atol=1)
    with pytest.raises(UcdError, match="negative prompt"):
        make(tiny_run, ["t1", "other:t1"], settings={"negative_prompt": "a <t2>"}, output=tmp_path / "negative")

    shutil.rmtree(twin)
    shutil.copytree(tiny_v_folder, twin)
    with pytest.raises(UcdError, match="v_prediction"):
        make(tiny_run, ["t1=4", "other:t1=3"], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "text",
    ["t1", "t1=3", "t1=0:10", "t1=0:x:5", "t1=0:10:1", "t1=0:1:99", "t1=0:inf:3", "t1=2:2:2", "=0:1:2", "t9=0:1:2"],
)
def test_sweeps_that_mean_nothing_are_refused(tiny_run, text):
    with pytest.raises(UcdError):
        parse_sweep(tiny_run, text)


def test_a_sweep_makes_a_row_and_weight_zero_leaves_the_term_out(tiny_run):
    *made, sheet = make(tiny_run, ["t1", "t2=3"], sweeps=["t1=0:10:3"], num_images=2)
    assert [Path(picture.path).parent.name for picture in made] == ["t1=0"] * 2 + ["t1=5"] * 2 + ["t1=10"] * 2
    np.testing.assert_array_equal(pixels(made[1]), pixels(make(tiny_run, ["t2=3"])[1]))
    np.testing.assert_array_equal(pixels(made[2]), pixels(make(tiny_run, ["t2=3", "t1=5"])[0]))
    assert sheet.path.endswith("sweep.png") and pixels(sheet).shape[1] > 3 * 112


def test_two_sweeps_make_a_plane_a_seed(tiny_run):
    made = make(tiny_run, [], sweeps=["t1=0:4:3", "at night=-2:2:2"], num_images=2)
    assert len(made) == 2 * (3 * 2 + 1)
    assert [Path(picture.path).name for picture in made[-2:]] == ["sweep-00000.png", "sweep-00001.png"]
    assert Path(made[2].path).parent.name == "t1=0-at-night=2"
    for sweeps in (["t1=0:1:2", "<t1>=0:1:2"], ["t1=0:1:2", "t2=0:1:2", "red=0:1:2"]):
        with pytest.raises(UcdError, match="plane"):
            make(tiny_run, [], sweeps=sweeps)


def test_a_place_changes_the_picture_and_its_metadata(tiny_run):
    (everywhere, *_), (left, *_), (right, *_) = (
        make(tiny_run, [f"t1{place}=9", "t2=3"], num_images=1) for place in ("", "@left", "@right")
    )
    assert np.abs(pixels(left) - pixels(right)).max() > 0 and np.abs(pixels(left) - pixels(everywhere)).max() > 0
    assert Image.open(left.path).text["places"] == "left; everywhere"
    assert " at left" in left.prompt


def test_a_place_that_covers_everything_changes_no_bit(tiny_run):
    (plain,), (covered,) = (make(tiny_run, [term, "t2=3"], num_images=1) for term in ("t1=4", "t1@0,0,1,1=4"))
    assert (pixels(plain) == pixels(covered)).all()


def test_places_are_terms_of_their_own(tiny_run):
    """The same concept may be left with one weight and right with another; sweeps move the one that is meant."""
    (picture,) = make(tiny_run, ["t1@left=2", "t1@right=6"], num_images=1)
    assert "2 * " in picture.prompt and "6 * " in picture.prompt
    *swept, sheet = make(tiny_run, ["t1@right=6"], sweeps=["t1@left=0:4:3"], num_images=1)
    assert len(swept) == 3 and sheet.path.endswith("sweep.png")


def test_corrector_steps(tiny_run):
    none, some = (
        make(
            tiny_run,
            ["t1=4", "t2=3"],
            num_images=2,
            output=tiny_run.path / str(steps),
            settings={"corrector_steps": steps},
        )
        for steps in (0, 2)
    )
    assert np.abs(pixels(none[0]) - pixels(some[0])).max() > 0
    alone = make(
        tiny_run, ["t1=4", "t2=3"], num_images=1, output=tiny_run.path / "alone",
        settings={"corrector_steps": 2, "seed": some[1].seed},
    )  # fmt: skip
    assert np.abs(pixels(some[1]) - pixels(alone[0])).max() <= 1  # the same in any batch
    assert Image.open(some[0].path).text["corrector"] == "2 of 0.6"


def test_weights_of_an_image_that_was_trained_on_are_its_row(tiny_run):
    path = Path(tiny_run.images[1].path)
    assert image_weights(tiny_run, path, "cpu") == tiny_run.weights[1].tolist()


def test_weights_of_another_image_are_encoded(tiny_run, tmp_path):
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "new.png")
    assert len(image_weights(tiny_run, tmp_path / "new.png", "cpu")) == len(tiny_run.tokens)


def test_terms_of_an_image(tiny_run):
    first, second = (f"a photo of a {token}" for token in tiny_run.tokens)
    assert like_terms(tiny_run, [3.0, 1.0], [], 7.5) == [Term(first, 3.0), Term(second, 1.0)]
    assert like_terms(tiny_run, [3.0, 0.1], [], 7.5) == [Term(first, 3.0)]  # too little to count
    assert like_terms(tiny_run, [3.0, 1.0], ["t1=0", "t2=+2"], 7.5) == [Term(second, 3.0)]
    assert like_terms(tiny_run, [3.0, 0.0], ["t2 = +2", "snow=-1"], 7.5) == [
        Term(first, 3.0), Term(second, 2.0), Term("snow", -1.0)
    ]  # fmt: skip
    with pytest.raises(UcdError, match="nothing is left"):
        like_terms(tiny_run, [3.0, 0.0], ["t1=0"], 7.5)


def test_weights_that_sum_to_one_share_the_guidance_scale(tiny_run):
    recipe = (tiny_run.path / "recipe.yaml").read_text().replace("constraint: none", "constraint: softmax")
    (tiny_run.path / "recipe.yaml").write_text(recipe)
    run = Run(tiny_run.path)
    assert [term.weight for term in like_terms(run, [0.75, 0.25], [], 8.0)] == [6.0, 2.0]


def test_like_shows_the_image_beside_what_was_made(tiny_run):
    path = Path(tiny_run.images[0].path)
    *made, sheet = make(tiny_run, ["t2=+1"], like=path)
    assert len(made) == 2 and sheet.path.endswith("like.png")
    assert Path(sheet.path).parent == Path(made[0].path).parent
    assert path.stem in Path(sheet.path).parent.name
