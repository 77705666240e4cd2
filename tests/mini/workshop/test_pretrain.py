"""Every stage trains, resumes to the same weights, and the whole exports to folders that others can load."""

import json
import shutil

import pytest
import torch

from concepts_cli.mini.workshop import nothing, pretrain, scenes
from concepts_cli.mini.workshop.measure import load_clip, load_reader
from concepts_cli.mini.workshop.measure_pictures import load_pipeline
from concepts_cli.mini.workshop.train_unet import additivity_gap, tokenized
from concepts_cli.mini.workshop.training import Budget, Training, warmup_cosine, warmup_flat_cooldown

STAGES = ("vae", "clip", "resnet", "unet", "decoder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which every stage has trained two steps at once, on 96 scenes."""
    folder = tmp_path_factory.mktemp("mini")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(nothing, "BANK", 30)
    scenes.draw_corpus(folder / "corpus", seed=3, count=96)
    for stage in STAGES:
        pretrain.run(stage, folder, seed=3, budget=Budget(steps=2), weights=folder / "nothing")
        if stage == "vae":
            shutil.copytree(folder / "vae", folder / "first-vae")  # before the stage `decoder` replaces it
    yield folder
    monkeypatch.undo()


@pytest.mark.parametrize("stage", STAGES)
def test_resumes_bit_by_bit(trained, tmp_path, stage):
    for name in ("corpus", "clip.pt", "latents.npy"):
        if not name.startswith(stage):
            (tmp_path / name).symlink_to(trained / name)
    if stage != "vae":
        shutil.copytree(trained / "first-vae", tmp_path / "vae")
    steps = pretrain.stage_steps(stage, tmp_path, seed=3, budget=Budget(steps=2), weights=tmp_path / "nothing")
    assert next(steps).number == 1
    steps.close()  # as an interruption would
    pretrain.run(stage, tmp_path, seed=3, budget=Budget(steps=2), weights=tmp_path / "nothing")
    resumed, straight = (torch.load(folder / f"{stage}.pt") for folder in (tmp_path, trained))
    assert resumed["step"] == straight["step"] == 2
    for part in ("module", "average"):
        for name, tensor in straight[part].items():
            assert torch.equal(resumed[part][name], tensor), name


def test_exports_what_others_load(trained, tmp_path):
    weights = tmp_path / "weights"
    pretrain.run("export", trained, seed=3, budget=Budget(), weights=weights)
    pipeline = load_pipeline(weights)
    saved = torch.load(trained / "unet.pt")["average"]["unet.conv_in.weight"]
    torch.testing.assert_close(pipeline.unet.conv_in.weight, saved, atol=1e-3, rtol=1e-3)  # float16 between
    load_clip(weights), load_reader(weights)
    assert json.loads((weights / "training.json").read_text())["steps"] == 2


def test_goes_on_from_exported_weights(trained, tmp_path):
    """In a fresh clone there is no checkpoint: the shipped weights and their count of steps are the start."""
    weights, out = tmp_path / "weights", tmp_path / "out"
    pretrain.run("export", trained, seed=3, budget=Budget(), weights=weights)
    (out).mkdir()
    (out / "corpus").symlink_to(trained / "corpus")
    steps = pretrain.stage_steps("unet", out, seed=3, budget=Budget(steps=3), weights=weights)
    assert next(steps).number == 3
    steps.close()
    assert torch.load(out / "unet.pt")["samples"] > torch.load(trained / "unet.pt")["samples"]


def test_logs_of_later_trainings_follow_the_earlier(trained, tmp_path):
    shipped, weights = tmp_path / "logs" / "unet.jsonl", tmp_path / "weights"
    log = trained / "logs" / "unet.jsonl"
    shipped.parent.mkdir()
    shipped.write_text('{"step": 20}\n{"step": 40}\n')
    before = log.read_text()
    log.write_text('{"step": 40, "loss": 1}\n{"step": 60, "loss": 1}\n')
    pretrain.run("export", trained, seed=3, budget=Budget(), weights=weights)
    log.write_text(before)
    assert [json.loads(line) for line in shipped.read_text().splitlines()] == [
        {"step": 20}, {"step": 40, "loss": 1}, {"step": 60, "loss": 1}
    ]  # fmt: skip


def test_schedules():
    assert warmup_cosine(0, 0.0) == pytest.approx(0.01)
    assert warmup_cosine(1000, 1.0) == pytest.approx(0.02)
    assert warmup_flat_cooldown(1000, 0.5) == 1.0
    assert warmup_flat_cooldown(1000, 1.0) == pytest.approx(0.05)


def test_a_resumed_module_keeps_its_optimizer_state(tmp_path):
    def one_step():
        torch.manual_seed(0)
        module = torch.nn.Linear(2, 1)
        training = Training(module, [torch.optim.AdamW(module.parameters(), lr=0.1)], tmp_path / "x.pt", batch_size=1)
        yield from training.run(Budget(steps=3), lambda step: {"loss": module(torch.ones(1, 2)).square().mean()})

    steps = one_step()
    first = next(steps)
    steps.close()
    rest = list(one_step())
    assert first.number == 1 and [step.number for step in rest] == [2, 3]
    assert rest[-1].samples == 3


def test_the_gap_between_a_whole_and_the_sum_of_its_parts_is_relative():
    torch.manual_seed(0)
    whole = torch.randn(3, 4, 16, 16)
    assert additivity_gap(whole, whole) == 0
    for size in (1, 100):
        torch.testing.assert_close(additivity_gap(size * whole, torch.zeros_like(whole)), torch.tensor(1.0))
    torch.testing.assert_close(additivity_gap(10 * whole, 15 * whole), torch.tensor(0.25))


def test_lists_of_captions_end_in_empty_ones():
    ids = tokenized([["a dog"], ["a castle", "a dog"]], 3)
    assert ids.shape[:2] == (2, 3)
    assert torch.equal(ids[0, 0], ids[1, 1])
    assert torch.equal(ids[0, 1], ids[0, 2]) and torch.equal(ids[0, 1], ids[1, 2])


def test_scenes_are_the_same_however_many_are_drawn_at_once(tmp_path, monkeypatch):
    scenes.draw_corpus(tmp_path / "one", seed=1, count=12)
    monkeypatch.setattr(scenes, "CHUNK", 5)
    scenes.draw_corpus(tmp_path / "several", seed=1, count=12)
    one, several = (scenes.read_corpus(tmp_path / name) for name in ("one", "several"))
    assert (one.images == several.images).all() and (one.labels == several.labels).all()
    assert (one.captions, one.parts, one.facts) == (several.captions, several.parts, several.facts)
