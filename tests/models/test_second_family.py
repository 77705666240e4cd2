"""A second family, in one file and one line of the registry: everything that a user does works with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import concepts_cli as interface
from concepts_cli.cli import app
from concepts_cli.commands.compose import compose
from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import evaluate
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.core.inversion import invert
from concepts_cli.core.sampling import denoise
from concepts_cli.errors import UcdError
from concepts_cli.models import FAMILIES, load_model
from concepts_cli.models.interface import Selection
from concepts_cli.output import Output
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
from tests.colours import ColourScorer
from tests.models import tiny_flow
from tests.models.tiny_flow import TinyFlow

OUT = Output(quiet=True)


@pytest.fixture
def flow_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(FAMILIES, "TinyFlowPipeline", TinyFlow)
    return TinyFlow.save(tmp_path / "flow")


@pytest.fixture
def flow_run(workplace, flow_folder, image_folder):
    def run(extra: str = "", steps: int = 4, **options) -> Run:
        path, norm = workplace / "flow.yaml", 0 if "inversion" in extra else 0.01
        (workplace / "words.txt").write_text("cat\ndog\nfox\n")
        path.write_text(
            f"""model: {flow_folder}
data: {{images: images}}
concepts: {{count: 2, initial: [cat, dog]}}
regularizers: {{token_norm: {norm}}}
train:
  {{max_steps: {steps}, batch_size: 2, gradient_accumulation: 2, log_every: 1, learning_rate: 0.01,
    scale_learning_rate: false, preview_every: 2{extra}}}
sample: {{num_images: 2, steps: 3, negative_prompt: blue}}
evaluate: {{words: words.txt}}
"""
        )
        return train(load_recipe(path), device="cpu", out=OUT, **options)

    return run


@pytest.mark.parametrize(
    "extra",
    ["", ", concept_checkpointing: true", ", gradient_checkpointing: true", ", method: textual-inversion"],
)
def test_it_is_trained(flow_run, extra):
    run = flow_run(extra)
    model = load_model(run.recipe.model, device="cpu")
    assert {name: tuple(table.shape) for name, table in run.embeddings.items()} == {
        "text_encoder": (2, 16),
        "text_encoder_2": (2, 24),
    }
    for name, table in run.embeddings.items():
        words = torch.tensor([model.pieces(word)[name][0] for word in ("cat", "dog")])
        moved = (table - model.tables[name][words]).abs()
        assert (moved > 1e-3).any(dim=1).all(), "both text encoders learn every concept"
    assert set(load_file(run.path / "concepts.safetensors")) == {"embeddings.text_encoder", "embeddings.text_encoder_2"}
    assert load_file(run.path / "embeddings" / "t2.safetensors")["text_encoder_2"].shape == (1, 24)
    assert (run.path / "previews" / "step-000004.png").is_file()


def test_it_resumes_to_the_same_bits(flow_run, workplace):
    whole = flow_run(output=workplace / "whole")
    part = flow_run(steps=2, output=workplace / "part")
    resumed = flow_run(output=part.path, resume=True)
    torch.testing.assert_close(whole.embeddings, Run(resumed.path).embeddings, rtol=0, atol=0)


def test_it_is_sampled_composed_and_encoded(flow_run, image_folder):
    run = flow_run()
    settings = run.recipe.sample
    pictures = sample(run, settings=settings, concepts=["t1"], prompts=["a <t2> in red"], device="cpu", out=OUT)
    pictures += compose(run, ["t1=2", "t2=-1", "a cat"], settings=settings, device="cpu", out=OUT)
    arrays = [np.asarray(Image.open(picture.path)) for picture in pictures]
    assert len(arrays) == 6 and {array.shape for array in arrays} == {(16, 16, 3)}
    assert len({array.tobytes() for array in arrays}) == 6
    encoded = encode(run, [image_folder], steps=4, device="cpu", out=OUT)["images"]
    assert len(encoded) == 6 and all(image["loss"] <= image["loss_without"] for image in encoded)


def test_saving_memory_changes_no_embedding(flow_run, workplace):
    plain, saving = flow_run(output=workplace / "a"), flow_run(", gradient_checkpointing: true", output=workplace / "b")
    torch.testing.assert_close(plain.embeddings, saving.embeddings)


@pytest.mark.parametrize("kind", ["attention", "contrast", "daam"])
def test_its_attention_is_drawn(flow_run, image_folder, kind):
    run, maps = flow_run(), MapSettings(kind=kind, inversion="fixed-point")
    generated, _ = visualize(run, maps=maps, settings=run.recipe.sample, device="cpu", out=OUT)
    settings = heat_map_settings(run, {"steps": 3}, real=True)
    found, failed = visualize(run, images=[image_folder], maps=maps, settings=settings, device="cpu", out=OUT)
    assert len(generated) == 4 and len(found) == 12 and not failed
    assert all(heat_map.peak > heat_map.mean > 0 for heat_map in generated + found)


def test_a_wrong_layer_lists_the_layers(flow_run):
    run, maps = flow_run(), MapSettings(selection=Selection(layers=("nowhere",)))
    with pytest.raises(UcdError, match="no layer is left") as caught:
        visualize(run, maps=maps, settings=run.recipe.sample, device="cpu", out=OUT)
    assert "it has block" in caught.value.hint


def test_without_a_probe_heat_maps_are_refused_in_a_line(flow_run, image_folder, monkeypatch):
    run = flow_run()
    monkeypatch.setattr(tiny_flow, "BlockAttention", lambda transformer, end: None)
    for images in ((), [image_folder / "0.png"]):
        with pytest.raises(UcdError, match="doesn't expose its attention"):
            visualize(run, images=images, settings=run.recipe.sample, device="cpu", out=OUT)


def test_it_is_named_and_composed_anew(flow_run, monkeypatch):
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *_: ColourScorer("CLIP", 0.3, 0.0))
    found = evaluate(flow_run(), metrics=["naming", "composition", "recomposition"], device="cpu", out=OUT)["metrics"]
    assert set(found["naming"]["concepts"]) == {"t1", "t2"}
    assert found["composition"]["images"] == 4 and found["recomposition"]["images"] == 6


def test_a_whole_session_of_the_command_line(flow_folder, image_folder, workplace):
    """The shortest recipe, which says nothing of samplers."""
    (workplace / "short.yaml").write_text("model: ./flow\ndata: {images: images}\n")

    def ucd(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"] if arguments[0] != "report" else arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    few = ("train.max_steps=2", "concepts.count=2", "data.resolution=18", "sample.height=18", "sample.steps=2")
    ucd("train", "short.yaml", *(word for setting in few for word in ("--set", setting)))
    run = Run(workplace / "runs" / "short")
    assert run.recipe.sample.scheduler == "flow-euler"
    first = ucd("sample", "-c", "all", "-n", "1").split()
    assert len(first) == 2 and ucd("sample", "-c", "all", "-n", "1", "--scheduler", "flow-euler").split() == first
    with Image.open(first[0]) as picture:
        assert picture.text["scheduler"] == "flow-euler" and picture.size == (16, 18)
    assert ucd("compose", "t1", "t2=2", "-n", "1", "--sweep", "t1=0:4:2")
    assert ucd("visualize", "-n", "1", "-c", "t1") and ucd("visualize", "images/0.png", "--layer", "block")
    assert len(json.loads(ucd("encode", "images", "--json"))["images"]) == 6
    assert ucd("report").strip().endswith("report.html")


def test_a_whole_session_of_a_notebook(flow_run):
    run = interface.open_run(flow_run().path, device="cpu")
    few = {"train.max_steps": 1}
    of_folder = interface.discover("images", count=2, model="./flow", overrides=few, device="cpu").finish()
    assert of_folder.recipe.sample.scheduler == "flow-euler", "the published settings suit any family"
    assert len(run.sample("t1", n=2, scheduler="flow-euler")) == 2
    assert len(run.compose({"t1": 2, "t2": -1}, n=1, height=18)) == 1
    assert len(run.heat_maps(n=1)) == 2
    assert run.encode(run.images[0].path, steps=2).shape == (2,)
    with pytest.raises(UcdError, match="no scheduler 'flow-eulr'") as caught:
        run.sample("t1", n=1, scheduler="flow-eulr")
    assert caught.value.hint == "did you mean flow-euler?"


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("sample.scheduler=heun", "no scheduler 'heun'"),
        ("sample.height=17", "17 x 16 pixels"),
        ("data.resolution=17", "17 x 17 pixels"),
        ("sample.eta=0.5", "flow-euler takes no eta, got 0.5"),
        ("concepts.where=output", "takes no concepts at the output of its text encoder"),
    ],
)
def test_what_it_cannot_do_is_said_before_the_training(flow_run, workplace, setting, problem):
    flow_run(steps=1)
    with pytest.raises(UcdError, match=problem):
        train(load_recipe("flow.yaml", [setting, "name=other"]), device="cpu", out=OUT)
    assert not (workplace / "runs" / "other").exists()


@torch.no_grad()
def test_the_way_in_and_back_is_eulers(flow_folder):
    model = load_model(str(flow_folder), device="cpu")
    conditioning = model.encode_prompts(["a photo of a cat"])
    start = torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(0))

    def predict(latents, time):
        return model.predict(latents, time, conditioning)

    *_, noise = invert(model, start, predict, 8, corrections=20)
    *_, again = denoise(model.sampler(), noise, predict, 8)
    torch.testing.assert_close(again, start, rtol=1e-3, atol=1e-3)
    by_hand = start
    for step in range(8):  # without corrections each step asks at the level it goes to
        by_hand = by_hand + predict(by_hand, torch.tensor((step + 1) * 125.0)) / 8
    *_, plain = invert(model, start, predict, 8)
    torch.testing.assert_close(plain, by_hand)


def test_what_the_family_does_not_have_is_refused(flow_run, tiny_run):
    run = flow_run()
    with pytest.raises(UcdError, match="no scheduler 'heun'"):
        sample(run, settings=replace(run.recipe.sample, scheduler="heun"), concepts=["t1"], out=OUT)
    with pytest.raises(UcdError, match="noise schedules"):
        compose(run, ["t1", f"{tiny_run.path}:t1"], settings=run.recipe.sample, device="cpu", out=OUT)
