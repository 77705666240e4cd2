"""A run folder of version 0.1, one tensor per concept file, is read, resumed and sampled as it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.run import Run

EARLIER = Path(__file__).parent / "earlier_run"
OUT = Output(quiet=True)


@pytest.fixture
def earlier(workplace, tiny_folder, image_folder) -> Run:
    """A copy of the folder whose recipe names the tiny model and the images, as the one it was trained on."""
    folder = workplace / "runs" / "earlier"
    shutil.copytree(EARLIER, folder)
    recipe = folder / "recipe.yaml"
    text = recipe.read_text().replace("tiny-model", str(tiny_folder)).replace("- images", f"- {image_folder}")
    recipe.write_text(text)
    return Run(folder)


def test_it_is_read(earlier):
    stored = load_file(EARLIER / "concepts.safetensors")["embeddings"]
    assert earlier.tokens == ("<t1>", "<t2>", "<t3>") and earlier.weights.shape == (6, 3)
    torch.testing.assert_close(earlier.embeddings, {"text_encoder": stored}, rtol=0, atol=0)
    model = earlier.load_model("cpu")
    (row,) = model.tokenizer("<t2>", add_special_tokens=False).input_ids
    torch.testing.assert_close(model.text.encoder.get_input_embeddings()(torch.tensor([row]))[0], stored[1])


def test_it_is_sampled(earlier):
    (picture,) = sample(
        earlier, concepts=["t2"], settings=replace(earlier.recipe.sample, num_images=1), device="cpu", out=OUT
    )
    assert Path(picture.path).is_file()


def test_it_is_resumed(earlier):
    """From its checkpoint of step 4 to step 6, and to where six steps of today end."""
    recipe = load_recipe(earlier.path / "recipe.yaml", ["train.max_steps=6"])
    resumed = train(recipe, output=earlier.path, resume=True, device="cpu", out=OUT)
    whole = train(recipe, output=earlier.path.parent / "whole", device="cpu", out=OUT)
    torch.testing.assert_close(Run(resumed.path).embeddings, whole.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Run(resumed.path).weights, whole.weights, rtol=1e-4, atol=1e-5)


def test_files_are_written_as_they_were(earlier):
    recipe = load_recipe(earlier.path / "recipe.yaml")
    again = train(recipe, output=earlier.path.parent / "again", device="cpu", out=OUT)
    for name in ("concepts", "weights", "embeddings/t1", "checkpoints/step-000004/state"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (EARLIER, again.path))
        assert list(before) == list(after), name
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
