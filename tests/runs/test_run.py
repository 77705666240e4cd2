"""Run folders: found, named, written whole."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concepts_cli.errors import UcdError
from concepts_cli.runs.files import check_place, replacing, write_png, write_safetensors, write_text
from concepts_cli.runs.find import find_run
from concepts_cli.runs.run import Run
from tests.runs.folder import small_run


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
    assert "t1, t2" in caught.value.hint


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


def test_only_whole_checkpoints_count_and_steps_are_numbers(tmp_path):
    for name in ("step-1000000", "step-999999", "step-copy"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "state.safetensors").touch()
    (tmp_path / "checkpoints" / "step-2000000").mkdir()
    assert [p.name for p in Run(tmp_path).checkpoints()] == ["step-999999", "step-1000000"]


def test_files_that_do_not_belong_together_are_said_so(tiny_run):
    images = tiny_run.path / "images.jsonl"
    lines = images.read_text().splitlines(keepends=True)
    images.write_text("".join(lines[1:]))
    with pytest.raises(UcdError, match="belongs to another run"):
        _ = Run(tiny_run.path).weights
    images.write_text("")
    with pytest.raises(UcdError, match="damaged"):
        _ = Run(tiny_run.path).images
    save_file({"embeddings": torch.zeros(3, 32)}, tiny_run.path / "concepts.safetensors", {"tokens": '["<t1>"]'})
    with pytest.raises(UcdError, match="damaged"):
        _ = Run(tiny_run.path).tokens


def test_a_place_is_checked_before_long_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "new" / "folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UcdError, match="is not a folder"):
            check_place(place)

    def read_only(**where):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(UcdError, match="Read-only"):
        check_place(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(UcdError, match="No space left") as caught:
        patched.setattr("os.fsync", full)
        Run(tmp_path).save_checkpoint(1, {"step": torch.tensor(1)}, keep=1)
    assert caught.value.exit_code == 1 and not any((tmp_path / "checkpoints" / "step-000001").iterdir())
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UcdError, match=r"metrics\.jsonl"):
        Run(tmp_path).log({})


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64)}
    words = [f"{letter}\u00e9\n" for letter in "stuvwxyz"]
    written = []
    for order in (words, words[::-1]):
        write_safetensors(tmp_path / "x.safetensors", tensors, {word: word for word in order})
        written.append((tmp_path / "x.safetensors").read_bytes())
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            assert file.metadata() == {word: word for word in words}
    assert written[0] == written[1]
    torch.testing.assert_close(load_file(tmp_path / "x.safetensors"), tensors)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def named(descriptor):
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append(named(descriptor)), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), replace(*paths)))
    write_text(tmp_path / "file.txt", "new")
    assert done[0].startswith(".file") and done[1:] == ["renamed", tmp_path.name]


def test_two_writers_of_one_file_do_not_share_their_temporary_file(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() in ("first", "second") and os.listdir(tmp_path) == ["file.txt"]


def test_what_cannot_be_deleted_is_said_so(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run.path / "samples").symlink_to(tmp_path / "elsewhere")
    run.clear()
    assert (tmp_path / "elsewhere").is_dir() and not any(run.path.iterdir()), "a link goes, what it leads to stays"

    def refuses(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    run = small_run(tmp_path / "other")
    monkeypatch.setattr("pathlib.Path.unlink", refuses)
    with pytest.raises(UcdError, match="can't delete .*: Permission denied"):
        run.clear()
