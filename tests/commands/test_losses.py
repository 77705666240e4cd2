"""Locks, full disks and folders that change under a command: one line, and nothing of the work is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from filelock import Timeout
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.report import report
from concepts_cli.commands.train import Trainer
from concepts_cli.errors import UcdError
from concepts_cli.interface.run import open_run
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.lock import RunLock
from concepts_cli.runs.run import Run
from tests.commands import killed_training
from tests.commands.mistakes import VERBS, ucd
from tests.runs.folder import small_run

QUIET = Output(quiet=True)
ROOT = Path(__file__).parents[2]


def test_a_second_training_is_told_who_trains(tiny_run, recipe_file):
    script = f"""
import sys, time
from pathlib import Path
from concepts_cli.runs.lock import RunLock
lock = RunLock(Path({str(tiny_run.path)!r}))
lock.take()
print(flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("[!.]*")}
        for how in ("--resume", "--force"):
            options = [recipe_file, "--output", tiny_run.path, "--device", "cpu", how]
            message = ucd("train", *options, code=1)
            assert f"is in use by process {holder.pid} on " in message and "since 20" in message
        assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("[!.]*")} == before
        report(tiny_run)  # reading needs no lock
    finally:
        holder.kill()
        holder.wait()
    RunLock(tiny_run.path).take()  # a killed process holds nothing


@pytest.mark.parametrize("force", [False, True])
def test_of_two_trainings_of_one_run_that_start_at_once_one_trains(tiny_run, workplace, force):
    recipe, folder = workplace / "slower.yaml", workplace / "both"
    recipe.write_text((tiny_run.path / "recipe.yaml").read_text().replace("max_steps: 3", "max_steps: 40"))
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([killed_training.__name__, "diffusers", "transformers"])
    pair = [server.Process(target=killed_training.run_new, args=(recipe, folder, force)) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    codes = sorted(process.exitcode for process in pair)
    assert codes[0] == 0 and (force or codes[1] in (1, 2))
    if codes[1]:
        message = (workplace / "both-refused").read_text()
        assert "is in use by process" in message or "is not empty" in message
    steps = [json.loads(line)["number"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41)) and Run(folder).tokens == ("<t1>", "<t2>")


def test_the_lock_is_of_the_process_and_ends_with_the_last_of_its_holders(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    assert first.take() and second.take() and first.take()
    first.release()
    first.release()
    held = f"from pathlib import Path; from concepts_cli.runs.lock import *; RunLock(Path({str(tmp_path)!r})).take()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    refused = subprocess.run([sys.executable, "-c", held], env=environment, stderr=subprocess.PIPE, text=True)
    assert refused.returncode and f"in use by process {os.getpid()} on" in refused.stderr
    second.release()
    assert subprocess.run([sys.executable, "-c", held], env=environment).returncode == 0
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": ' + "[" * 9999, None])
def test_a_lock_whose_holder_is_unknown_holds_all_the_same(tmp_path, monkeypatch, content):
    def held(**options):
        raise Timeout("")

    lock = RunLock(tmp_path)
    if content is not None:
        lock._holder.write_text(content)
    monkeypatch.setattr(lock, "_lock", SimpleNamespace(acquire=held))
    with pytest.raises(UcdError, match="in use by") as caught:
        lock.take()
    assert caught.value.exit_code == 1


def test_a_disk_without_locks_is_written_with_a_warning(workplace, recipe_file, monkeypatch, capsys):
    def unsupported(self, **options):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("filelock.FileLock.acquire", unsupported)
    trainer = Trainer(load_recipe(recipe_file), device="cpu", out=Output())
    assert len(list(trainer.steps(stop=lambda: False))) == 3 and trainer.run.is_finished()
    assert "knows no locks" in capsys.readouterr().err


def test_a_training_that_fails_to_start_leaves_no_folder_and_no_lock(workplace, recipe_file, monkeypatch):
    import concepts_cli.commands.train as module

    def fails(*arguments, **options):
        raise UcdError("no room")

    monkeypatch.setattr(module, "prepare_training", fails)
    for output in (None, workplace / "new" / "run"):
        with pytest.raises(UcdError, match="no room"):
            Trainer(load_recipe(recipe_file), output=output, device="cpu", out=QUIET)
    assert not (workplace / "runs").exists() and not (workplace / "new").exists()


def test_an_evaluation_prints_before_it_writes(tiny_run, monkeypatch):
    (tiny_run.path / "evaluation.json").mkdir()  # so that it can't be written, by root either
    for json_too in ([], ["--json"]):
        arguments = ["evaluate", "--metric", "assignment", "--device", "cpu", *json_too]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and "evaluation.json is not written" in result.stderr
        assert "matched" in result.stdout
        if json_too:
            assert "assignment" in json.loads(result.stdout)["metrics"]
    with pytest.warns(UserWarning, match=r"evaluation\.json is not written"):
        assert "assignment" in open_run(tiny_run.path).evaluate("assignment")


def test_several_evaluations_print_their_spread_before_one_fails(tiny_run):
    other = Path(shutil.copytree(tiny_run.path, tiny_run.path.parent / "other"))
    (tiny_run.path / "evaluation.json").mkdir()
    runs = ["--run", tiny_run.path, "--run", other]
    result = CliRunner().invoke(app, ["evaluate", "-m", "assignment", "--json", *map(str, runs)])
    assert result.exit_code == 1 and len(json.loads(result.stdout)["runs"]) == 2
    assert (other / "evaluation.json").is_file()


def test_evaluations_at_once_keep_each_others_metrics(tmp_path):
    folder = small_run(tmp_path / "run").path
    script = """
import sys
from pathlib import Path
from concepts_cli.metrics.evaluation import add_metrics
from concepts_cli.output import Output
from concepts_cli.runs.run import Run
for n in range(20):
    add_metrics(Run(Path(sys.argv[1])), {f"{sys.argv[2]}-{n}": {}}, Output())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder)]
    threads = [Thread(target=subprocess.run, args=([*command, name],), kwargs={"env": environment}) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads((folder / "evaluation.json").read_text())["metrics"]) == 40


@pytest.mark.parametrize("every", ["train.log_every=1", "train.checkpoint_every=2", "train.preview_every=2"])
def test_a_run_that_is_deleted_while_it_grows_is_said_to_be_gone(workplace, recipe_file, every):
    slow = "train.log_every=100" if "log_every" not in every else every
    trainer = Trainer(load_recipe(recipe_file, [slow, every]), device="cpu", out=QUIET)
    steps = trainer.steps(stop=lambda: False)
    next(steps)
    shutil.rmtree(trainer.run.path)
    with pytest.raises(UcdError, match="is gone") as caught:
        list(steps)
    assert caught.value.exit_code == 1 and not trainer.run.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the folder")
@pytest.mark.parametrize("verb", ["train", *VERBS])
def test_a_current_folder_that_is_gone_is_said_so(tmp_path, monkeypatch, verb):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert "the current folder no longer exists" in ucd(
        verb, *(["mini-s1"] if verb == "train" else VERBS[verb]), code=2
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_of_a_run_has_the_mode_that_the_umask_wants(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        run = small_run(tmp_path / "run")
        run.begin(run.recipe, run.images)
        run.save_concepts(run.tokens, run.embeddings, run.weights)
        run.save_checkpoint(1, {"step": torch.tensor(1)}, keep=1)
    finally:
        os.umask(old)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) == 7 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}
