"""Tiny random models in the published layout, built on the spot, and what the tests hang on them."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from PIL import Image


def pytest_configure() -> None:
    torch.set_num_threads(1)  # tiny models: a second thread only waits


def pytest_collection_modifyitems(items) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here; where there is one: make gpu"))


def build_tokenizer(length: int, tokens: int = 0):
    """A CLIPTokenizer of some words; others are spelled. Filled up to `tokens` with words that nothing spells."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    words = ["a", "photo", "of", "in", "the", "style", "painting", "cat", "dog", "red", "blue"]
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    merges, known = [], set(vocabulary)
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair, joined = (parts[0], parts[1]), parts[0] + parts[1]
            if joined not in known:
                merges.append(pair)
                known.add(joined)
                vocabulary.append(joined)
            parts = [joined, *parts[2:]]
    vocabulary += [f"unused-{n}" for n in range(len(vocabulary), tokens)]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges, model_max_length=length
    )


def build_pipeline(folder: Path, *, prediction_type: str = "epsilon") -> Path:
    """A StableDiffusionPipeline of some 100,000 random parameters, saved to `folder`: 32 px pictures, 16x16x4
    latents.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(16)
    eos = tokenizer.eos_token_id
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return build_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory) -> Path:
    return build_pipeline(tmp_path_factory.mktemp("tiny-v"), prediction_type="v_prediction")


@pytest.fixture(params=["epsilon", "v_prediction"])
def tiny_model(request, tiny_folder, tiny_v_folder):
    """A fresh tiny model, of either target."""
    from concepts_cli.models import load_model

    return load_model(str(tiny_folder if request.param == "epsilon" else tiny_v_folder), device="cpu")


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Six small PNGs, no two alike."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def recipe_file(tmp_path, tiny_folder, image_folder) -> Path:
    """A recipe of three steps on the tiny model."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""model: {tiny_folder}
data: {{images: images}}
concepts: {{count: 2, start: table, initial_spread: 1}}
weights: {{constraint: none}}
train:
  {{max_steps: 3, batch_size: 2, gradient_accumulation: 2, log_every: 1,
    learning_rate: 0.01, weights_learning_rate: null}}
sample: {{num_images: 2, steps: 2, batch_size: 4}}
evaluate: {{class_names: [cat, dog], labels: labels.json}}
"""
    )
    (tmp_path / "labels.json").write_text(json.dumps({f"{n}.png": ["cat" if n < 3 else "dog"] for n in range(6)}))
    return path


@pytest.fixture
def infinite_loss(monkeypatch) -> None:
    """A training whose loss is not finite from the first step on."""
    from concepts_cli.core.objective import ComposedLoss

    finite = ComposedLoss.__call__

    def infinite(*arguments):
        return {name: term * float("inf") for name, term in finite(*arguments).items()}

    monkeypatch.setattr(ComposedLoss, "__call__", infinite)


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current folder with a cache of its own, and no run named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UCD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UCD_RUN", raising=False)
    return tmp_path


@pytest.fixture
def tiny_run(workplace, recipe_file):
    """A finished run on the tiny model."""
    from concepts_cli.commands.train import train
    from concepts_cli.output import Output
    from concepts_cli.recipe import load_recipe

    return train(load_recipe(recipe_file), device="cpu", out=Output(quiet=True))
