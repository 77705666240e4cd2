"""Starts from the images: words learned one by one, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.core import starting, teaching
from concepts_cli.core.draws import seeded
from concepts_cli.core.starting import ImageStart
from concepts_cli.core.teaching import Start
from concepts_cli.data.images import as_pixels
from concepts_cli.errors import UcdError
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.models import load_model
from concepts_cli.recipe.prompts import OBJECT
from tests.held_latents import HeldLatents

SENTENCES = ("a photo of a {}", "the {}", "{}")


@pytest.fixture
def start(tiny_folder, monkeypatch):
    monkeypatch.setattr(starting, "CANDIDATE_STEPS", 6)

    def build(count: int = 7, concepts: int = 2, **options) -> ImageStart:
        model = load_model(str(tiny_folder), device="cpu")
        mean = torch.randn(1, count, *model.latent_shape(), generator=seeded(0, "latents"))
        latents = HeldLatents(mean, 0.1 * torch.ones_like(mean))
        return ImageStart(model, latents, concepts, **({"sentences": SENTENCES, "restarts": 2} | options))

    return build


def done(start: ImageStart) -> Start:
    assert len(list(start.steps())) == start.total
    return start.result


def test_two_kinds_of_scenes_are_told_apart():
    """On the built-in model: three scenes of each of two classes."""
    model, rng = load_model("mini", device="cpu"), np.random.default_rng(0)
    scenes = [draw_scene(rng, labels=(label,), night=False, style="", held_out=True) for label in ("dog", "castle") * 3]
    pixels = torch.stack([as_pixels(Image.fromarray(scene.image)) for scene in scenes])
    mean, std = model.encode_images(pixels)
    result = done(ImageStart(model, HeldLatents(mean[None], std[None]), 2, sentences=OBJECT, restarts=2))
    assert result.weights.argmax(dim=1).tolist() in ([0, 1] * 3, [1, 0] * 3)


def test_the_same_seed_finds_the_same_words(start):
    result = done(start())
    assert result.words["text_encoder"].shape == (2, 32) and result.weights.shape == (7, 2)
    again = done(start())
    assert torch.equal(result.words["text_encoder"], again.words["text_encoder"])
    other = done(start(seed=1))
    assert not torch.equal(result.words["text_encoder"], other.words["text_encoder"])


def test_small_calls_find_the_same(start):
    whole, parts = done(start(5)), done(start(5, rows=8))
    torch.testing.assert_close(parts.words, whole.words, rtol=1e-3, atol=1e-5)
    assert torch.equal(parts.weights, whole.weights)


def test_an_images_word_gets_the_weight():
    start = Start({"text_encoder": torch.zeros(2, 4)}, torch.eye(2).flip(0))
    assert start.raw_weights("none").tolist() == [[0, 1], [1, 0]]
    soft = start.raw_weights("softmax").softmax(dim=1)
    assert soft.argmax(dim=1).tolist() == [1, 0] and 0.9 < soft[0, 1] < 0.97


def test_calls_are_bounded_and_many_images_have_landmarks(start, monkeypatch):
    monkeypatch.setattr(teaching, "FEW", 6)
    monkeypatch.setattr(starting, "ROWS", 5)
    ours = start(20, concepts=1, rows=5)
    assert len(ours.landmarks) == 8 and len(set(ours.landmarks.tolist())) == 8
    predict, rows = ours.model.predict, []

    def counting(latents, *rest):
        rows.append(len(latents))
        return predict(latents, *rest)

    monkeypatch.setattr(ours.model, "predict", counting)
    result = done(ours)
    assert max(rows) <= 5 and result.weights.shape == (20, 1)


def test_each_image_has_its_own_sentences(start, monkeypatch):
    ours = start(4, sentences=("an object {}", "a style {}"), sentences_of=[range(1), range(1, 2)] * 2)
    tokenize, asked = ours.model.tokenize, []
    monkeypatch.setattr(ours.model, "tokenize", lambda prompts: asked.extend(prompts) or tokenize(prompts))
    images, owners = torch.tensor([0, 3]), torch.tensor([0, 1])
    words = ours._mean_words(2)
    list(ours._train(words, images, owners, 1, 0.01))
    assert asked == ["an object <candidate0>", "a style <candidate1>"]
    gains = ours._gains(words, torch.arange(4), torch.tensor([[0, 1]] * 4), seed=0)
    alone = ours._gains(words, torch.tensor([3]), torch.tensor([[0, 1]]), seed=0)
    assert gains.shape == (starting.LEVELS, 4, 2)
    torch.testing.assert_close(gains[:, 3:], alone)


def test_an_image_is_measured_again_while_its_best_word_is_in_doubt(start, monkeypatch):
    ours = start(4, concepts=4)
    # The second image's two best words are alike.
    sure = torch.tensor([[0.0, 0.1, 0.3, 0.0], [0.3, 0.3, 0.0, 0.1], [0.1, 0.0, 0.0, 0.3]])
    sure = sure.expand(starting.LEVELS, -1, -1)
    asked = []

    def gains(words, images, of, *, seed, levels=range(starting.LEVELS)):
        asked.append((images.tolist(), of.tolist(), seed))
        return sure[:, images].gather(2, of.expand(starting.LEVELS, -1, -1))

    monkeypatch.setattr(ours, "_gains", gains)
    words = {"text_encoder": torch.zeros(4, 32)}
    found = ours._sure_gains(words, torch.arange(3))
    torch.testing.assert_close(found, (sure[0] - sure[0].mean(dim=0)) / sure[0].std(dim=0, correction=0))
    (everyone, _, _), *again = asked
    assert everyone == [0, 1, 2] and len(again) == starting.MORE
    assert all(images == [1] and sorted(*of) == [0, 1, 3] for images, of, _ in again)
    assert len({seed for *_, seed in asked}) == 1 + starting.MORE  # new noise each time


def test_of_many_words_the_likeliest_are_measured_at_all_levels(start, monkeypatch):
    monkeypatch.setattr(starting, "MANY", 8)
    monkeypatch.setattr(starting, "LISTED", 3)
    ours = start(4)
    truth = torch.randn(starting.LEVELS, 4, 9, generator=seeded(0, "truth"))
    measured = []

    def gains(words, images, of, *, seed, levels=range(starting.LEVELS)):
        measured.append(of.numel() * len(levels))
        return truth[list(levels)][:, images].gather(2, of.expand(len(levels), -1, -1))

    monkeypatch.setattr(ours, "_gains", gains)
    mean, levels, likely = ours._likely_gains({"text_encoder": torch.zeros(9, 32)}, torch.arange(4), seed=1)
    coarse = len(starting.COARSE)
    assert measured == [4 * 9 * coarse, 4 * 3 * (starting.LEVELS - coarse)]
    best = truth[list(starting.COARSE)].mean(dim=0).topk(3, dim=1).indices
    assert torch.equal(likely, best) and levels.shape == (starting.LEVELS, 4, 3)
    torch.testing.assert_close(mean.gather(1, best), truth.mean(dim=0).gather(1, best))
    others = torch.ones(4, 9, dtype=torch.bool).scatter(1, best, False)
    assert (mean.masked_fill(~others, -9).amax(dim=1) <= mean.gather(1, best).amin(dim=1)).all()


def test_errors_that_are_no_numbers(start, monkeypatch):
    ours = start(4)
    monkeypatch.setattr(ours, "_errors", lambda clean, *rest: torch.full((len(clean),), torch.nan))
    with pytest.raises(UcdError, match="not finite"):
        list(ours.steps())
