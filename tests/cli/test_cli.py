"""The `ucd` executable: what lands on which stream, and how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from concepts_cli.cli import app

TINY = Path("runs", "tiny")


def ucd(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_train_prints_exactly_the_run_folder(workplace, recipe_file):
    result = ucd("train", str(recipe_file), "-q", "--device", "cpu")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{TINY}\n", "")


def test_previews_say_where_they_are(workplace, recipe_file):
    result = ucd("train", str(recipe_file), "--preview-every", "2", "--device", "cpu")
    (said,) = re.findall("^preview: (.*)$", result.stderr, re.M)
    assert Path(said) == TINY / "previews" / "step-000002.png" and os.path.isfile(said)


def test_a_whole_session_in_a_pipe(workplace, recipe_file):
    """As a newcomer would, in a process of its own: results on stdout, progress on stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def piped(*arguments):
        command = [sys.executable, "-m", "concepts_cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=workplace)

    trained = piped("train", str(recipe_file))
    assert trained.stdout == f"{TINY}\n" and "3/3" in trained.stderr and "\x1b" not in trained.stderr
    sampled = piped("sample", "--concept", "all", "-q")
    assert len(sampled.stdout.splitlines()) == 4 and sampled.stderr == ""
    assert all(os.path.isfile(workplace / line) for line in sampled.stdout.splitlines())
    assert re.search(
        r"^2 concepts in 6 images, with .+ on \d+ CPU cores?.*: 3 steps, about \d+ s$", trained.stderr, re.M
    )
    assert re.search(r"2 concepts in 6 images: t1 is strongest in \d, t2 in \d\nnext: ucd sample", trained.stderr)
    sampled = piped("sample", "--concept", "t1")
    assert sampled.stderr.startswith(f"2 pictures of {TINY}\nnext: `ucd compose")


def test_json_is_one_document(workplace, recipe_file):
    assert json.loads(ucd("train", str(recipe_file), "--json").stdout)["concepts"] == ["<t1>", "<t2>"]
    sampled = json.loads(ucd("sample", "--concept", "t1", "--grid", "--json").stdout)
    assert sampled["run"] == str(TINY) and [picture["seed"] for picture in sampled["pictures"]] == [0, 1]
    composed = json.loads(ucd("compose", "t1", "t2=2", "-n", "1", "--json").stdout)
    (made,) = composed["pictures"]
    mapped = json.loads(ucd("visualize", "-c", "t1", "-n", "1", "--steps", "1", "--grid", "--json").stdout)
    (drawn,) = mapped["maps"]
    assert composed["sheets"] == [] and all(map(os.path.isfile, [made["path"], drawn["path"]]))
    assert all(map(os.path.isfile, sampled["sheets"] + mapped["sheets"])) and len(mapped["sheets"]) == 1
    listed = json.loads(ucd("recipes", "--json").stdout)
    assert isinstance(listed, dict)


def test_dry_run_touches_nothing(workplace, recipe_file):
    result = ucd("train", str(recipe_file), "--dry-run", "--json")
    assert json.loads(result.stdout)["steps"] == 3
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "tiny.yaml", "--set", "train.max_step=3"], "max_steps"),
        (["train", "tiny.yaml", "--set", "data.images=nowhere"], "nowhere"),
        (["train", "tiny.yaml", "--set", "model=./nowhere"], "nowhere"),
        (["train", "tiny.yaml", "--device", "gpu"], "gpu"),
        (["sample"], "no run"),
        (["sample", "--run", "runs/nowhere"], "nowhere"),
        (["evaluate"], "no run"),
        (["encode", "a.png"], "no run"),
        (["report"], "no run"),
        (["encode"], "image"),
        (["train"], "recipe"),
        (["trian"], "trian"),
        (["sample", "--num-images", "0"], "num-images"),
        (["sample", "--guidance-scale", "inf"], "guidance-scale"),
        (["sample", "--seed", "99999999999999999999"], "seed"),
    ],
)
def test_mistakes_are_told_in_a_line_and_exit_2(workplace, recipe_file, arguments, message):
    result = ucd(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert message.lower() in result.stderr.lower() and "Traceback" not in result.stderr


def test_mistakes_about_a_finished_run(tiny_run):
    for arguments in (
        ["sample", "--concept", "t9"],
        ["sample", "--concept", "t1", "--scheduler", "dddim"],
        ["compose", "t1", "t9"],
        ["compose", "t1=lots"],
        ["evaluate", "--metric", "clup"],
        ["visualize", "--concept", "t9"],
        ["train", "tiny.yaml", "--output", str(tiny_run.path)],
        ["train", "tiny.yaml", "--output", "tiny.yaml/below"],
        ["sample", "--output", "tiny.yaml"],
        ["sample", "--output", "/proc/nowhere"],
        ["visualize", "--output", "tiny.yaml", "--force"],
        ["sample", "--steps", "1001"],
        ["sample", "--height", "65"],
        ["sample", "--precision", "fp8"],
        ["sample", "--scheduler", "dpm++", "--eta", "0.5"],
        ["sample", "a <t9>"],
        ["sample", "a <other:t1>"],
        ["compose"],
        ["compose", "t1=2=3"],
        ["compose", "t1", "nowhere:t1"],
        ["compose", "t1", "--sweep", "t1=0:10"],
        ["evaluate", "--samples", "nowhere"],
        ["evaluate", "--metric", "classification"],
        ["evaluate", "--metric", "classification", "--held-out", "nowhere"],
        ["evaluate", "--run", str(tiny_run.path), "--run", "nowhere"],
        ["encode", "nowhere.png"],
        ["encode", "tiny.yaml"],
        ["encode", "images", "--output", "weights.xls"],
        ["report", "--output", "tiny.yaml"],
    ):
        result = ucd(*arguments)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr.startswith("ucd: "), (
            arguments,
            result.output,
        )


def test_a_run_without_concepts_says_how_to_finish_it(tiny_run):
    (tiny_run.path / "concepts.safetensors").unlink()
    for command in (["sample"], ["compose", "t1"]):
        result = ucd(*command, "--run", str(tiny_run.path))
        assert result.exit_code == 2 and "--resume" in result.stderr


def test_options_of_the_sample_section_reach_the_picture(tiny_run):
    from PIL import Image

    result = ucd("sample", "-c", "t1", "-n", "1", "--steps", "1", "--scheduler", "dpm++", "--width", "24", "--json")
    (made,) = json.loads(result.stdout)["pictures"]
    with Image.open(made["path"]) as picture:
        assert picture.size == (24, 32)
        assert (picture.text["steps"], picture.text["scheduler"]) == ("1", "dpm++")


def test_images_that_cannot_be_read_are_named(workplace, recipe_file, image_folder):
    (image_folder / "broken.png").write_text("no image")
    result = ucd("train", str(recipe_file))
    assert result.exit_code == 2 and "broken.png" in result.stderr
    for path in image_folder.iterdir():
        path.unlink()
    result = ucd("train", str(recipe_file))
    assert result.exit_code == 2 and "no images" in result.stderr


def test_wrong_usage_is_two_lines_as_every_mistake_is(workplace):
    result = subprocess.run(
        [sys.executable, "-m", "concepts_cli", "train", "--outptu", "x"], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("ucd: No such option: --outptu") and "ucd train --help" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_debug_shows_the_traceback(workplace, monkeypatch):
    monkeypatch.setenv("UCD_DEBUG", "1")
    assert "UcdError" in repr(ucd("sample").exception)


def test_a_termination_while_sampling_counts_as_an_interrupt(tiny_run, monkeypatch):
    import signal

    monkeypatch.setattr("concepts_cli.pictures.plan.generate", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    result = ucd("sample")
    assert result.exit_code == 130 and "Traceback" not in result.output
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
