"""`rename`: a name of one's own, everywhere in a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

import concepts_cli as ucd
from concepts_cli.cli import app
from concepts_cli.commands.compose import compose
from concepts_cli.commands.rename import Renaming, rename
from concepts_cli.commands.runs import list_runs
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.files import png_text
from concepts_cli.runs.lock import RunLock
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


def test_the_words_and_weights_are_the_same_by_another_name(tiny_run):
    before = tiny_run.embeddings["text_encoder"].clone(), tiny_run.weights.clone()
    renamed = rename(tiny_run, "t2", "dog")
    assert renamed.tokens == ("<t1>", "<dog>") and renamed.recipe.concepts.tokens == ("t1", "dog")
    torch.testing.assert_close(renamed.embeddings["text_encoder"], before[0], rtol=0, atol=0)
    torch.testing.assert_close(renamed.weights, before[1], rtol=0, atol=0)
    assert sorted(path.name for path in (tiny_run.path / "embeddings").iterdir()) == [
        "dog.safetensors",
        "t1.safetensors",
    ]
    with safe_open(tiny_run.path / "embeddings" / "dog.safetensors", "pt") as file:
        assert list(file.keys()) == ["<dog>"]
    for file in ("concepts", "weights"):
        with safe_open(tiny_run.path / f"{file}.safetensors", "pt") as opened:
            assert json.loads(opened.metadata()["tokens"]) == ["<t1>", "<dog>"]


def make_everything(run):
    """Samples, compositions and heat maps of both concepts, as a user would ask for them."""
    settings = replace(run.recipe.sample, num_images=1)
    options = {"settings": settings, "device": "cpu", "out": QUIET}
    names = [token.strip("<>") for token in run.tokens]
    made = sample(run, concepts=["all"], prompts=[f"a photo of <{names[1]}> and a t3x"], **options)
    made += compose(run, [names[0], f"{names[1]}=4"], **options)
    made += compose(run, [names[0]], sweeps=[f"{names[1]}=0:4:2"], **options)[:2]
    made += visualize(run, concepts=["all"], **options)[0]
    real = heat_map_settings(run, {"steps": 1}, real=True)
    made += visualize(run, training_images=True, settings=real, device="cpu", out=QUIET)[0]
    return [Path(one.path) for one in made]


def test_pictures_that_exist_are_those_of_the_new_name(tiny_run, monkeypatch):
    before = {path: Image.open(path).tobytes() for path in make_everything(tiny_run)}
    renamed = rename(tiny_run, "t2", "dog")
    monkeypatch.setattr(Run, "load_model", lambda *_: pytest.fail("a picture was made again"))
    after = make_everything(renamed)
    assert [Image.open(path).tobytes() for path in after] == list(before.values())
    for path in after:
        said = png_text(path)
        assert "t2" not in path.relative_to(tiny_run.path).as_posix() and "t2" not in "".join(said.values())
    assert not [path for path in tiny_run.path.rglob("*") if "t2" in path.name]
    words = {png_text(path)["command"] for path in after}
    assert f"ucd compose t1 '<dog>=4' --num-images 1 --run {tiny_run.path}" in words


def test_a_name_of_ones_own_can_be_exchanged_and_taken_back(tiny_run):
    first = make_everything(tiny_run)
    again = rename(rename(rename(tiny_run, "t2", "dog"), "<dog>", "poodle"), "poodle", "t2")
    assert again.tokens == ("<t1>", "<t2>")
    own = [path for path in first if "compositions" not in path.parts and "photo" not in path.parent.name]
    assert len(own) > 5 and all(map(Path.is_file, own))  # others are called after texts, in which a dog may be a dog


def test_folders_called_after_texts_follow_a_name_of_ones_own(tiny_run, capsys):
    options = {"settings": replace(tiny_run.recipe.sample, num_images=1), "device": "cpu", "out": QUIET}
    run = rename(tiny_run, "t2", "dog")
    made = sample(run, prompts=["a <dog> beside a dog"], **options)
    made += sample(run, prompts=["a dog"], **options)
    made += compose(run, ["t1", "<dog>=4"], **options)
    made += compose(run, ["t1", "a dog=4"], **options)
    made += compose(run, ["t1"], sweeps=["<dog>=0:4:2"], **options)[:2]
    made += visualize(run, prompt="a photo of <dog>", words=["<dog>"], **options)[0]
    sample(run, concepts=["all"], grid=True, **options)
    before = [Image.open(picture.path).tobytes() for picture in made]
    rename(run, "dog", "cat", out=Output())
    moved = [Path(picture.path).relative_to(run.path).parts[1] for picture in made]
    after = sorted(path.name for folder in ("samples", "compositions") for path in (run.path / folder).iterdir())
    assert {"a-cat-beside-a-dog", "a-dog", "t1-cat=4", "t1-a-dog=4", "t1-cat=0-4-2"} <= set(after)
    assert {"a-dog-beside-a-dog", "t1-dog=4"} <= set(moved) and not {"a-dog-beside-a-dog", "t1-dog=4"} & set(after)
    assert (run.path / "heatmaps" / "a-photo-of-cat").is_dir()
    kept = [Image.open(path).tobytes() for path in run.path.rglob("*.png")]
    assert all(picture in kept for picture in before)
    said = capsys.readouterr().err
    assert "the old name is still drawn on " in said and "grid.png" in said and "ucd sample --concept all" in said


def test_scores_go_along(tiny_run):
    naming = {"t2": {"name": "cat", "same_as": ["t1"]}, "t1": {"name": "t2x", "same_as": ["t2"]}}
    metrics = {"naming": {"concepts": naming, "advice": "t2 and t1 look the same, t20 does not"}}
    (tiny_run.path / "evaluation.json").write_text(json.dumps({"run": "tiny", "metrics": metrics}))
    rename(tiny_run, "t2", "dog")
    found = json.loads((tiny_run.path / "evaluation.json").read_text())["metrics"]["naming"]
    assert found["concepts"] == {"dog": naming["t2"], "t1": {"name": "t2x", "same_as": ["dog"]}}
    assert found["advice"] == "dog and t1 look the same, t20 does not"


def test_a_renamed_run_can_be_resumed(tiny_run, recipe_file):
    rename(tiny_run, "t1", "dog")
    recipe = load_recipe(tiny_run.path / "recipe.yaml", ["train.max_steps=4"])
    with pytest.raises(UcdError, match="no concept 't1'") as caught:
        Run(tiny_run.path).token("t1")
    assert caught.value.hint.endswith(f"{tiny_run.path} has dog, t2")
    resumed = train(recipe, output=tiny_run.path, resume=True, device="cpu", out=QUIET)
    assert resumed.tokens == ("<dog>", "<t2>")


@pytest.mark.parametrize("name", ["t1", "T1", "a b", "", "<>", "all", "../x", "con", "x" * 200, "a<b"])
def test_names_that_cannot_be_are_refused_and_nothing_changes(tiny_run, name):
    before = {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()}
    problem = "is the name of another concept" if name.lower() == "t1" else "can't be the name"
    with pytest.raises(UcdError, match=problem):
        rename(tiny_run, "t2", name)
    after = {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()}
    assert after == before


def test_concepts_without_images_and_weights_as_imported_ones_can_be_renamed_and_listed(tiny_run):
    for name in ("weights.safetensors", "images.jsonl"):
        (tiny_run.path / name).unlink()
    assert rename(Run(tiny_run.path), "t2", "dog").tokens == ("<t1>", "<dog>")
    assert not (tiny_run.path / "weights.safetensors").exists()
    (summary,) = list_runs()
    assert (summary.images, list(summary.concepts)) == (0, ["t1", "dog"])


def test_a_run_in_use_is_not_renamed(tiny_run, monkeypatch):
    monkeypatch.setattr(RunLock, "take", lambda self, wait=0: (_ for _ in ()).throw(UcdError("in use", exit_code=1)))
    with pytest.raises(UcdError, match="in use"):
        rename(tiny_run, "t2", "dog")
    assert Run(tiny_run.path).tokens == ("<t1>", "<t2>")


@pytest.mark.parametrize(
    ("old", "word", "new"),
    [
        *(("t2", word, new) for word, new in (("t2", "<dog>"), ("t2=4", "<dog>=4"), ("t2@left=5", "<dog>@left=5"))),
        *(("t2", word, new) for word, new in (("t1,t2", "t1,<dog>"), ("t2 at night", "<dog> at night"))),
        *(("t2", word, word) for word in ("t20", "at2", "other:t2=3", "runs/t2", "t1")),
        *(("cat", word, new) for word, new in (("cat=4", "<dog>=4"), ("a <cat> here", "a <dog> here"))),
        *(("cat", word, word) for word in ("a cat on grass", "category", "cats")),
    ],
)
def test_a_word_of_a_command(old, word, new):
    assert Renaming(old, "dog").metadata("command", f"ucd sample '{word}'") in (
        f"ucd sample {new}",
        f"ucd sample '{new}'",
    )


def test_from_python_and_from_the_command_line(tiny_run):
    run = ucd.open_run(tiny_run.path, device="cpu")
    first = run.sample("t2", n=1)[0]
    run.rename("t2", "dog")
    assert run.concepts == ("t1", "dog")
    assert run.sample("dog", n=1)[0].tobytes() == first.tobytes()
    result = CliRunner().invoke(app, ["rename", "dog", "cat", "--json"])
    assert json.loads(result.stdout) == {"run": str(tiny_run.path), "concept": "cat", "concepts": ["t1", "cat"]}
    assert "dog of" in result.stderr and "ucd sample cat" in result.stderr
    wrong = CliRunner().invoke(app, ["rename", "t9", "cat"])
    assert wrong.exit_code == 2 and "no concept 't9'" in wrong.stderr
