"""Run folders: found, named, written whole."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from concepts_cli.errors import UcdError
from concepts_cli.run_dir import Run, find_run, replacing, write_png, write_text


def test_the_newest_run_is_meant_unless_another_is_named(tiny_run, workplace, monkeypatch):
    import shutil

    shutil.copytree(tiny_run.path, "runs/second")
    os.utime("runs/second/concepts.safetensors", (10**10, 10**10))
    assert find_run().name == "second"
    assert find_run("tiny").name == find_run("runs/tiny").name == find_run(tiny_run.path.resolve()).name == "tiny"
    monkeypatch.setenv("UCD_RUN", "runs/tiny")
    assert find_run().name == "tiny" and find_run("runs/second").name == "second"


def test_runs_that_are_not_there_are_told_with_a_hint(workplace):
    with pytest.raises(UcdError) as caught:
        find_run()
    assert "ucd train quickstart" in caught.value.hint
    with pytest.raises(UcdError, match="no run at"):
        find_run("runs/nowhere")


def test_concepts_by_name(tiny_run):
    assert tiny_run.token("t2") == tiny_run.token("<t2>") == "<t2>"
    with pytest.raises(UcdError) as caught:
        tiny_run.token("t9")
    assert "t1 to t2" in caught.value.hint


def test_a_run_without_concepts_or_with_a_damaged_file_is_said_so(tiny_run):
    path = tiny_run.path / "concepts.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UcdError, match="damaged"):
        _ = Run(tiny_run.path).tokens
    path.unlink()
    with pytest.raises(UcdError, match="no concepts yet") as caught:
        _ = Run(tiny_run.path).tokens
    assert "--resume" in caught.value.hint


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UcdError, match="can't write") as caught:
        write_text(tmp_path / "file" / "below.txt", "x")
    assert caught.value.exit_code == 1


def test_pngs_carry_their_metadata(tmp_path):
    write_png(tmp_path / "a.png", Image.new("RGB", (2, 2)), {"prompt": "a photo of a <t1> – ☃", "seed": 3})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"prompt": "a photo of a <t1> – ☃", "seed": "3"}


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save_checkpoint(step, {"step": torch.tensor(step)}, keep=2)
    assert [p.name for p in run.checkpoints()] == ["step-000002", "step-000003"]
    assert load_file(run.checkpoints()[-1] / "state.safetensors")["step"] == 3
