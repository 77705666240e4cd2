"""`sample`: which pictures, where, and when they are made again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.commands.sample import sample
from concepts_cli.errors import UcdError
from concepts_cli.output import Output


def make(run, **options):
    settings = dataclasses.replace(run.recipe.sample, **options.pop("settings", {}))
    return sample(run, settings=settings, device="cpu", out=Output(quiet=True), **options)


def test_every_concept_gets_a_folder_and_pictures_say_how_they_were_made(tiny_run):
    made = make(tiny_run, concepts=["all"])
    assert [Path(p.path).relative_to(tiny_run.path / "samples").as_posix() for p in made] == [
        "t1/00000.png", "t1/00001.png", "t2/00000.png", "t2/00001.png",
    ]  # fmt: skip
    with Image.open(made[3].path) as picture:
        assert picture.size == (32, 32)
        text = picture.text
    assert (text["prompt"], text["seed"], text["run"], text["scheduler"]) == ("a photo of a <t2>", "1", "tiny", "ddim")


def test_pictures_that_are_there_are_kept_and_missing_ones_made(tiny_run):
    made = make(tiny_run, concepts=["t1"])
    before = [Path(p.path).stat().st_mtime_ns for p in made]
    first = Path(made[0].path).read_bytes()
    Path(made[0].path).unlink()
    again = make(tiny_run, concepts=["t1"], settings={"batch_size": 1})
    assert again == made and Path(made[0].path).read_bytes() == first
    assert Path(made[1].path).stat().st_mtime_ns == before[1]


def test_pictures_of_another_setting_are_not_overwritten_without_force(tiny_run):
    (one, _) = make(tiny_run, concepts=["t1"])
    with pytest.raises(UcdError, match="guidance_scale") as caught:
        make(tiny_run, concepts=["t1"], settings={"guidance_scale": 2.0})
    assert "--force" in caught.value.hint
    make(tiny_run, concepts=["t1"], settings={"guidance_scale": 2.0}, force=True)
    with Image.open(one.path) as picture:
        assert picture.text["guidance_scale"] == "2"


def test_prompts_get_plain_folder_names_and_unknown_words_are_refused(tiny_run, tmp_path):
    made = make(tiny_run, prompts=["a <t1> / in 'snow' ☃", "a <t1> in snow"], output=tmp_path / "out")
    folders = {Path(p.path).parent.name for p in made}
    assert len(folders) == 2 and all("/" not in name and "<" not in name for name in folders)
    with pytest.raises(UcdError, match="t7"):
        make(tiny_run, prompts=["a <t7> in snow"])


def test_the_grid_has_a_row_a_concept(tiny_run):
    made = make(tiny_run, concepts=["all"], grid=True)
    assert made[-1].path.endswith("grid.png")
    with Image.open(made[-1].path) as picture:
        assert picture.width > 2 * 112 and picture.height > 2 * 112
