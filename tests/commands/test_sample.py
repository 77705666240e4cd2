"""`sample`: which pictures, where, and when they are made again."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from concepts_cli.cli import app
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


def test_pictures_of_another_setting_get_a_folder_of_their_own(tiny_run):
    def folders(**settings):
        made = make(tiny_run, concepts=["all"], grid=True, settings=settings)
        assert len({Path(picture.path).parents[1] for picture in made[:-1]} | {Path(made[-1].path).parent}) == 1
        return str(Path(made[-1].path).parent.relative_to(tiny_run.path / "samples"))

    ways = {".": {}, "guidance_scale=2": {"guidance_scale": 2.0}, "seed=5": {"seed": 5}}
    ways["steps=3-seed=5"] = {"seed": 5, "steps": 3}
    assert [folders(**settings) for settings in ways.values()] == [*ways]
    before = {path: path.read_bytes() for path in tiny_run.path.rglob("*.png")}
    assert [folders(**settings) for settings in ways.values()] == [*ways]  # found again, and kept
    assert {path: path.read_bytes() for path in tiny_run.path.rglob("*.png")} == before
    (forced, _) = make(tiny_run, concepts=["t1"], settings={"guidance_scale": 2.0}, force=True)
    with Image.open(tiny_run.path / "samples" / "t1" / "00000.png") as picture:
        assert picture.text["guidance_scale"] == "2" and forced.path == picture.filename


def test_a_picture_that_ucd_did_not_make_is_kept(tiny_run):
    own = tiny_run.path / "samples" / "t1" / "00000.png"
    own.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(own)
    before = own.read_bytes()
    (made, _) = make(tiny_run, concepts=["t1"])
    assert Path(made.path).is_file() and made.path != str(own) and own.read_bytes() == before


def test_a_picture_carries_the_command_that_makes_it(tiny_run, workplace, monkeypatch):
    """The same bytes, typed again."""
    options = {"settings": {"num_images": 1, "steps": 3, "scheduler": "dpm++", "negative_prompt": "a t2"}}
    made = make(tiny_run, concepts=["t1"], prompts=["-- it's t2"], grid=True, **options)
    commands = {Image.open(one.path).text["command"] for one in made}
    (command,) = commands
    words = shlex.split(command)
    assert words[:2] == ["ucd", "sample"] and words[-2:] == ["--", "-- it's t2"] and "--grid" in words
    before = {path: path.read_bytes() for path in tiny_run.path.rglob("*.png")}
    shutil.rmtree(tiny_run.path / "samples")
    result = CliRunner().invoke(app, [*words[1:2], "--device", "cpu", *words[2:]])
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in tiny_run.path.rglob("*.png")} == before


def test_prompts_get_plain_folder_names_and_unknown_words_are_refused(tiny_run, tmp_path):
    made = make(tiny_run, prompts=["a <t1> / in 'snow' ☃", "a <t1> in snow"], output=tmp_path / "out")
    folders = {Path(p.path).parent.name for p in made}
    assert len(folders) == 2 and all("/" not in name and "<" not in name for name in folders)
    with pytest.raises(UcdError, match="t7"):
        make(tiny_run, prompts=["a <t7> in snow"])


AWKWARD = ["../../../etc/passwd", "a/b\\c", "'\"`$(ls)`\"'", "\N{ELEPHANT}", "-", "名前" * 80, "a\nb", "x=3"]


@pytest.mark.parametrize("prompt", [*AWKWARD, "word " * 1000])
def test_any_text_makes_a_folder_of_its_own_inside_the_output(tiny_run, tmp_path, prompt):
    out = tmp_path / "out"
    (one, _) = make(tiny_run, prompts=[prompt], output=out, grid=True, settings={"num_images": 1})
    path = Path(one.path)
    assert path.parent.parent == out and path.resolve().is_relative_to(out.resolve()) and path.is_file()
    (other, _) = make(tiny_run, prompts=[prompt + "\N{LION FACE}"], output=out, grid=True, settings={"num_images": 1})
    assert Path(other.path).parent != path.parent
    assert make(tiny_run, prompts=[prompt], output=out, settings={"num_images": 1}) == [one]


def test_a_prompt_never_lands_among_a_concepts_own_samples(tiny_run):
    one = make(tiny_run, prompts=["t1!"])[0]
    assert one.prompt == "<t1>!" and Path(one.path).parent.name == "t1-2"
    make(tiny_run, concepts=["t1"])


def test_a_concept_is_the_same_by_any_of_its_names(tiny_run):
    """`t1` is the concept as an option, alone and in a text; several may be given at once."""
    both = make(tiny_run, concepts=["all"])
    for ways in (
        {"concepts": ["t1,t2"]},
        {"concepts": ["t1"], "prompts": ["t2"]},
        {"prompts": ["<t1>", "t2"]},
        {"prompts": ["all"]},
        {"concepts": ["<t1>, t2", "t1"]},
    ):
        assert make(tiny_run, **ways) == both
    assert make(tiny_run, prompts=["t1 on a t2"]) == make(tiny_run, prompts=["<t1> on a <t2>"])
    (plain, _) = make(tiny_run, prompts=["at1 or t1st or t-1"])
    assert plain.prompt == "at1 or t1st or t-1"
    with pytest.raises(UcdError, match="another run") as caught:
        make(tiny_run, prompts=["other:t1"])
    assert caught.value.hint == "use that run: --run other --concept t1"


def test_a_long_prompt_is_said_to_be_cut(tiny_run, capsys):
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=1)
    sample(tiny_run, prompts=["cat " * 1000], settings=settings, device="cpu", out=Output())
    said = capsys.readouterr()
    assert "longer than the model's 16 tokens" in said.err and said.out == ""


@pytest.mark.parametrize("prompt", ["a <t7> in snow", "a t7 in snow", "a <other:t1> in snow", "", "  ", "\udcff"])
def test_prompts_that_cannot_be_are_refused_and_nothing_is_written(tiny_run, prompt):
    with pytest.raises(UcdError):
        make(tiny_run, prompts=["a cat", prompt], concepts=["t1"])
    assert not (tiny_run.path / "samples").exists()


def test_settings_that_cannot_be_are_refused_and_nothing_is_written(tiny_run):
    for settings in ({"negative_prompt": "no t9"}, {"eta": 0.5, "scheduler": "euler"}, {"height": 33}):
        with pytest.raises(UcdError):
            make(tiny_run, concepts=["t1"], settings=settings)
    assert not (tiny_run.path / "samples").exists()


def test_settings_reach_the_pictures_and_their_metadata(tiny_run):
    options = {"negative_prompt": "a t2", "eta": 0.5, "height": 48, "width": 24, "precision": "bf16"}
    (one, _) = make(tiny_run, concepts=["t1"], settings=options)
    with Image.open(one.path) as picture:
        assert picture.size == (24, 48)
        assert picture.text["negative_prompt"] == "a <t2>" and picture.text["eta"] == "0.5"
    (other, _) = make(tiny_run, concepts=["t1"], settings=options | {"eta": 0.0})
    assert Path(other.path).parents[1].name == "eta=none"


def test_several_processes_share_the_pictures(tiny_run):
    """As `accelerate launch --num_processes 2` starts them: both work, one speaks."""
    (kept, *_) = make(tiny_run, concepts=["t1"], settings={"num_images": 3})
    before = Path(kept.path).stat().st_mtime_ns
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "concepts_cli", "sample", "-c", "all", "-n", "3", "--device", "cpu", "--grid"]
    team = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "localhost", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        team.append(subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True))
    said = [process.communicate(timeout=300) for process in team]
    assert [process.returncode for process in team] == [0, 0], said
    assert len(said[0][0].splitlines()) == 7 and said[1] == ("", "")
    assert "2/2" in said[0][1]  # of the three that were missing
    assert Path(kept.path).stat().st_mtime_ns == before
    together = {path: path.read_bytes() for path in sorted((tiny_run.path / "samples").glob("t*/*.png"))}
    assert len(together) == 6
    make(tiny_run, concepts=["all"], settings={"num_images": 3}, force=True)
    for path, data in together.items():
        alone = np.asarray(Image.open(path)).astype(int)
        np.testing.assert_allclose(alone, np.asarray(Image.open(io.BytesIO(data))).astype(int), atol=1)


def test_the_grid_has_a_row_a_concept(tiny_run):
    made = make(tiny_run, concepts=["all"], grid=True)
    assert made[-1].path.endswith("grid.png")
    with Image.open(made[-1].path) as picture:
        assert picture.width > 2 * 112 and picture.height > 2 * 112


def test_a_sheet_of_other_pictures_is_another_file(tiny_run):
    def sheet(**how):
        return Path(make(tiny_run, grid=True, **how)[-1].path).name

    asked = [{"concepts": ["all"]}, {"concepts": ["t1"]}, {"concepts": ["t2"]}, {"concepts": ["t1"]}, {}]
    assert [sheet(**how) for how in asked] == ["grid.png", "grid-2.png", "grid-3.png", "grid-2.png", "grid.png"]
    assert sheet(concepts=["t2"], force=True) == "grid.png"
