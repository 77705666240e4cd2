"""Discovering step by step: the same run as `ucd train`, paused, interrupted and gone on with."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from typer.testing import CliRunner

import concepts_cli as ucd
from concepts_cli.cli import app
from concepts_cli.recipe import choose_recipe, load_recipe


def test_steps_and_then_the_run(tiny_run, recipe_file, capfd):
    capfd.readouterr()
    discovery = ucd.discover(recipe_file, output="runs/stepped", device="cpu")
    assert discovery.total_steps == 3 and "step 0 of 3" in repr(discovery)
    steps = list(discovery)
    assert [step.number for step in steps] == [1, 2, 3] and all(isinstance(step, ucd.Step) for step in steps)
    run = discovery.finish()
    torch.testing.assert_close(run.embeddings, tiny_run.embeddings, rtol=0, atol=0)
    assert torch.equal(run.weights, tiny_run.weights)
    assert (run.path / "metrics.jsonl").read_text() == (tiny_run.path / "metrics.jsonl").read_text()
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def own_interrupt():
    """The caller's handler of SIGINT: Python's own, even in a shell's background, where it would be ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_a_loop_that_was_left_goes_on(tiny_run, recipe_file, own_interrupt):
    discovery = ucd.discover(recipe_file, output="runs/paused", device="cpu")
    for _ in discovery:
        break
    handler = signal.getsignal(signal.SIGINT)
    assert handler is signal.default_int_handler, "between steps, signals are the caller's"
    torch.testing.assert_close(discovery.finish().embeddings, tiny_run.embeddings, rtol=0, atol=0)


def test_an_interrupt_ends_the_step_and_the_next_loop_goes_on(tiny_run, recipe_file, own_interrupt, monkeypatch):
    from concepts_cli.commands import train

    log = train._log

    def interrupted(run, accelerator, step):
        log(run, accelerator, step)
        if step.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "_log", interrupted)
    discovery = ucd.discover(recipe_file, output="runs/cut", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        list(discovery)
    (checkpoint,) = (discovery.path / "checkpoints").iterdir()
    assert checkpoint.name == "step-000002", "the signal came after the first step's end"
    torch.testing.assert_close(discovery.finish().embeddings, tiny_run.embeddings, rtol=0, atol=0)
    resumed = ucd.discover(recipe_file, output="runs/cut", resume=True, device="cpu").finish()
    torch.testing.assert_close(resumed.embeddings, tiny_run.embeddings, rtol=0, atol=0)


def test_a_failed_step_never_ends_in_a_run(workplace, recipe_file, infinite_loss):
    discovery = ucd.discover(recipe_file, output="runs/fail", device="cpu")
    for _ in range(discovery.total_steps + 1):  # also where no step would be left
        with pytest.raises(ucd.UcdError, match="the loss is (inf|nan) at step 1"):
            discovery.finish()
    assert not (discovery.path / "concepts.safetensors").exists()


def test_it_runs_in_a_thread(tiny_run, recipe_file):
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(ucd.discover(recipe_file, output="runs/thread", device="cpu").finish())
    )
    thread.start()
    thread.join()
    torch.testing.assert_close(runs[0].embeddings, tiny_run.embeddings, rtol=0, atol=0)


def test_one_process_trains_with_one_precision_after_another(workplace, recipe_file):
    for precision in ("no", "bf16", "no"):
        overrides = {"train.max_steps": 1, "train.mixed_precision": precision}
        run = ucd.discover(recipe_file, overrides=overrides, device="cpu").finish()
        assert run.recipe.train.mixed_precision == precision
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_progress_is_on_stderr_and_only_when_asked_for(workplace, recipe_file, capfd):
    ucd.discover(recipe_file, device="cpu", progress=True).finish()
    printed = capfd.readouterr()
    assert printed.out == "" and "discovering  3/3" in printed.err


def test_a_folder_is_enough(workplace, image_folder, tiny_folder):
    overrides = {"train.max_steps": 1, "train.gradient_accumulation": 1}
    discovery = ucd.discover(image_folder, count=3, model=str(tiny_folder), overrides=overrides, device="cpu")
    run = discovery.finish()
    assert run.path.as_posix() == "runs/images" and run.weights.shape == (6, 3)


def test_a_folder_gets_the_defaults_and_as_many_concepts_as_it_has(workplace, image_folder):
    tuned, mine = load_recipe("imagenet-tuned", {"data.images": ["x"]}), choose_recipe(image_folder)
    assert (mine.model, mine.weights) == (tuned.model, tuned.weights)
    assert mine.train == dataclasses.replace(tuned.train, mixed_precision="no")  # which depends on the device
    assert mine.data.images == (str(image_folder),) and mine.data.images_per_folder is None
    assert mine.evaluate.class_names is None and mine.concepts.count is None
    small, quickstart = choose_recipe(image_folder, {"model": "mini"}), load_recipe("quickstart")
    assert (small.model, small.train, small.sample) == ("mini", quickstart.train, quickstart.sample)
    assert choose_recipe(image_folder, ["model=mini"]) == small
    assert (
        choose_recipe(image_folder, ["preset=paper"]).weights == load_recipe("imagenet", {"data.images": "x"}).weights
    )


def test_the_command_takes_a_folder_too(workplace, image_folder, tiny_folder):
    given = ["concepts.count=3", f"model={tiny_folder}", "train.max_steps=1", "train.gradient_accumulation=1"]
    arguments = ["train", f"{image_folder}/", *(part for text in given for part in ("--set", text)), "-q"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "runs/images\n", "")
    sampler = "sample.scheduler=ddim"  # the model's own, by name
    assert ucd.open_run("images").recipe == choose_recipe(image_folder, [*given, sampler])


def test_a_folder_without_images_is_one_clear_line(workplace):
    (workplace / "empty").mkdir()
    for folder, message in (("empty/", "no images in "), ("gone/", "gone: no such recipe or folder")):
        result = CliRunner().invoke(app, ["train", folder])
        assert result.exit_code == 2 and message in result.stderr.splitlines()[0], result.output


def test_a_recipe_object_takes_overrides(workplace):
    recipe = ucd.load_recipe("quickstart")
    assert choose_recipe(recipe) == recipe
    changed = choose_recipe(recipe, {"concepts.count": 3, "train": {"max_steps": 7}, "sample.negative_prompt": None})
    assert changed.concepts.count == 3 and changed.train == dataclasses.replace(recipe.train, max_steps=7)
    assert changed == ucd.load_recipe("quickstart", ["concepts.count=3", "train.max_steps=7"])


def test_all_mistakes_are_raised_at_once(workplace, image_folder):
    overrides = {"train.max_step": 3, "concepts": {"count": "x"}, "data.resolution": True}
    with pytest.raises(ucd.UcdError) as raised:
        ucd.discover(image_folder, overrides=overrides)
    assert sorted(raised.value.message.splitlines()) == [
        "concepts.count: got 'x', expected a whole number from 1 to 1,000 or auto",
        "data.resolution: got 'true', expected a whole number from 1 to 16,384 or null",
        "train.max_step: unknown key; did you mean max_steps?",
    ]


def test_importing_the_package_imports_nothing_heavy():
    script = """
import sys
import concepts_cli as ucd
from concepts_cli import UcdError
assert ucd.__version__ and set(dir(ucd)) >= {"discover", "open_run", "load_model", "Run", "UcdError"}
try:
    ucd.discovr
except AttributeError as error:
    assert "discovr" in str(error)
print([name for name in ("torch", "numpy", "PIL", "diffusers", "yaml", "rich") if name in sys.modules])
for name in ucd.__all__:
    getattr(ucd, name)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
