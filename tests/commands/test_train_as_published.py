"""`preset: paper` against the published step, written anew with transformers, diffusers and torch alone.

One UNet call per concept, the whole token table in the optimizer, gradients accumulated as accelerate 0.15 does it.
Both in double precision, since AdamW turns the rounding of a gradient near 0 into a step of full length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch.nn import functional as F

from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.training.setup import (
    choose_accelerator,
    load_training_model,
    prepare_training,
    read_training_images,
)

STEPS = 20
RECIPES = {"imagenet": 18, "ade20k-kitchen": 5, "monet": 3}  # and how many images they get here


@pytest.fixture(autouse=True)
def double_precision(monkeypatch):
    """Everything that asks for float32 gets float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def training(tmp_path, tiny_folder, monkeypatch):
    """The training of a shipped recipe on the tiny model and random pictures, and the tiny pipeline."""
    monkeypatch.setenv("UCD_DATA", "/data")
    monkeypatch.setenv("UCD_CACHE", str(tmp_path / "cache"))

    def build(name: str, **settings):
        pixels = np.random.default_rng(0).integers(0, 255, (RECIPES[name], 32, 32, 3), dtype=np.uint8)
        for n, each in enumerate(pixels):
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.fromarray(each).save(tmp_path / "images" / f"{n:02d}.png")
        own = {"model": str(tiny_folder), "data.images": [str(tmp_path / "images")], "data.images_per_folder": None}
        recipe = load_recipe(name, own | {"train.max_steps": STEPS, "data.resolution": 16} | settings)
        accelerator, out = choose_accelerator(recipe, "cpu"), Output(quiet=True)
        model = load_training_model(recipe, accelerator, out)
        model.unet.double(), model.text_encoder.double(), model.vae.double()
        model.dtype = torch.float64
        return recipe, prepare_training(recipe, read_training_images(recipe), model, accelerator, out)

    return build


def published_steps(recipe, training, folder) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """The loss, the words (K, D) and the weights (N, K) after each step, from the same draws and the same start."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float64)
    tokenizer, text_encoder, unet = pipeline.tokenizer, pipeline.text_encoder, pipeline.unet
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    tokens, settings = list(training.objective.tokens), recipe.train
    tokenizer.add_tokens(tokens)
    text_encoder.resize_token_embeddings(len(tokenizer))
    pipeline.unet.requires_grad_(False)
    text_encoder.requires_grad_(False)
    table = text_encoder.get_input_embeddings().requires_grad_(True).weight
    ids = tokenizer.convert_tokens_to_ids(tokens)
    table.data[ids] = training.concepts.embeddings["text_encoder"].detach()
    original = table.detach().clone()
    count, images = len(tokens), len(training.draws.latents)
    weights = torch.nn.Parameter(torch.full((images, count, 1, 1, 1), recipe.weights.initial))
    rate = settings.learning_rate * settings.gradient_accumulation * settings.batch_size
    optimizer = torch.optim.AdamW(chain([table], [weights]), rate, weight_decay=settings.weight_decay)

    def hidden(texts: list[str]) -> torch.Tensor:
        padded = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        return text_encoder(padded.input_ids)[0]

    def backward(numbers: list[int]) -> float:
        batch = training.draws.batch(numbers)
        noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        templates = recipe.concepts.templates()
        scores = []
        for k, token in enumerate(tokens):
            texts = [templates[sentence].replace("{}", token) for sentence in batch.sentences[:, k]]
            scores.append(unet(noisy, batch.timesteps, hidden(texts)).sample)
        scores = torch.stack(scores, dim=1)
        uncond = unet(noisy, batch.timesteps, hidden([""]).repeat(len(numbers), 1, 1)).sample[:, None]
        chosen = weights[batch.rows]
        composed = uncond[:, 0] + (chosen * (scores - uncond)).sum(dim=1)
        loss = F.mse_loss(composed, batch.noise) + regularizers(recipe.regularizers, scores, chosen, table[ids])
        (loss / settings.gradient_accumulation).backward()
        return loss.item()

    epoch = 0
    while True:
        shown = list(range(epoch * images, (epoch + 1) * images))
        batches = [shown[i : i + settings.batch_size] for i in range(0, images, settings.batch_size)]
        losses = []
        for n, numbers in enumerate(batches, 1):
            losses.append(backward(numbers))
            if n % settings.gradient_accumulation == 0 or n == len(batches):
                optimizer.step()
                optimizer.zero_grad()
                others = [i for i in range(len(table)) if i not in ids]
                table.data[others] = original[others]
                yield sum(losses) / len(losses), table[ids].detach().clone(), weights.detach()[..., 0, 0, 0].clone()
                losses = []
        epoch += 1


def regularizers(settings, scores: torch.Tensor, weights: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The published terms, written out pair by pair."""
    count = scores.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    flat = (scores * weights if settings.weighted_scores else scores).flatten(2)
    named = F.normalize(words, dim=1) if settings.normalize_scores else words
    flat = F.normalize(flat, dim=2) if settings.normalize_scores else flat
    dots = torch.stack([(flat[:, i] * flat[:, j]).sum(dim=1) for i, j in pairs]) / flat.shape[2]
    far = torch.stack([(flat[:, i] - flat[:, j]).norm(dim=1) for i, j in pairs])
    angles = torch.stack([F.cosine_similarity(flat[:, i], flat[:, j], dim=1).acos() for i, j in pairs])
    energies = {"euclidean": (1 / far).mean(), "log": (1 / far).log().mean(), "arccos": (1 / angles).log().mean()}
    similarity = dots.square().sum().sqrt() if settings.square_similarity else dots.mean()
    terms = {
        "score_similarity": similarity,
        "score_energy": energies[settings.energy],
        "token_repulsion": (1 / F.pdist(named)).log().mean(),
        "token_similarity": torch.stack([(words[i] @ words[j]).square() for i, j in pairs]).mean(),
        "token_distance": (1 / F.pdist(words)).mean(),
        "token_norm": words.norm(dim=1).mean(),
    }
    return sum(getattr(settings, name) * term for name, term in terms.items() if getattr(settings, name))


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_same_trajectory(recipe, training, folder) -> None:
    published = published_steps(recipe, training, folder)
    for (loss, words, weights), step in zip(
        published, training.steps(), strict=False
    ):  # first theirs: it copies the start
        assert step.loss == pytest.approx(loss, rel=1e-6), step.number
        assert difference(training.concepts.embeddings["text_encoder"], words) < 1e-6, step.number
        assert difference(training.concepts.raw_weights, weights) < 1e-6, step.number
    assert step.number == STEPS


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_take_the_published_steps(training, tiny_folder, name):
    recipe, ours = training(name)
    assert_same_trajectory(recipe, ours, tiny_folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"score_similarity": 0.1, "token_repulsion": 0.1},
        {"score_similarity": 0.1, "square_similarity": True, "token_similarity": 0.1},
        {"score_similarity": 0.1, "weighted_scores": True, "token_distance": 0.1},
        {"score_energy": 0.1, "energy": "euclidean", "token_norm": 0.1},
        {"score_energy": 0.1, "energy": "log", "normalize_scores": True, "token_repulsion": 0.1},
        {"score_energy": 0.1, "energy": "arccos", "normalize_scores": True},
    ],
    ids=" ".join,
)
def test_every_regularizer_does_too(training, tiny_folder, settings):
    own = {f"regularizers.{name}": value for name, value in settings.items()}
    recipe, ours = training("monet", **own, **{"concepts.count": 3})
    assert_same_trajectory(recipe, ours, tiny_folder)
