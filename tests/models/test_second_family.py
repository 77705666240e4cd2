"""A second family, in one file and one line of the registry: everything that a user does works with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from concepts_cli.commands.compose import compose
from concepts_cli.commands.encode import encode
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import visualize
from concepts_cli.core.inversion import invert
from concepts_cli.core.sampling import denoise
from concepts_cli.errors import UcdError
from concepts_cli.models import FAMILIES, load_model
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run
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
        path.write_text(
            f"""model: {flow_folder}
data: {{images: images}}
concepts: {{count: 2, initial: [cat, dog]}}
regularizers: {{token_norm: {norm}}}
train:
  {{max_steps: {steps}, batch_size: 2, gradient_accumulation: 2, log_every: 1, learning_rate: 0.01,
    scale_learning_rate: false, preview_every: 2{extra}}}
sample: {{num_images: 2, steps: 3, scheduler: euler, negative_prompt: blue}}
"""
        )
        return train(load_recipe(path), device="cpu", out=OUT, **options)

    return run


@pytest.mark.parametrize("extra", ["", ", concept_checkpointing: true", ", method: textual-inversion"])
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


def test_heat_maps_say_in_a_line_that_there_is_no_attention(flow_run, image_folder):
    run = flow_run()
    for images in ((), [image_folder / "0.png"]):
        with pytest.raises(UcdError, match="no attention to draw heat maps of"):
            visualize(run, images=images, settings=run.recipe.sample, device="cpu", out=OUT)


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
        sample(run, settings=run.recipe.sample.__class__(scheduler="heun", steps=2), concepts=["t1"], out=OUT)
    with pytest.raises(UcdError, match="noise schedules"):
        compose(run, ["t1", f"{tiny_run.path}:t1"], settings=run.recipe.sample, device="cpu", out=OUT)
