"""Concepts that share images: which words are taken, and with which weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.core import pursuit
from concepts_cli.core.draws import seeded
from concepts_cli.core.pursuit import PursuitStart, goals, nonnegative_weights, pursue, separation
from concepts_cli.data.images import as_pixels
from concepts_cli.errors import UcdError
from concepts_cli.mini.corpus import draw_scene
from concepts_cli.models import load_model
from tests.held_latents import HeldLatents


@pytest.fixture
def start(tiny_folder, monkeypatch):
    monkeypatch.setattr(pursuit, "CANDIDATE_STEPS", 3)

    def build(count: int = 5, concepts: int = 3, **options) -> PursuitStart:
        model = load_model(str(tiny_folder), device="cpu")
        mean = torch.randn(1, count, *model.latent_shape(), generator=seeded(0, "latents"))
        latents = HeldLatents(mean, 0.1 * torch.ones_like(mean))
        return PursuitStart(model, latents, concepts, **({"sentences": ("a {}", "one {}")} | options))

    return build


def products(things: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What words (W, D) add in images that are sums of things, (L, D)."""
    gram = (words @ words.T).expand(len(things), -1, -1)
    return gram.double(), (things @ words.T).double()


def test_words_of_things_are_taken_before_blends_and_what_is_everywhere():
    things = torch.eye(4)  # three things, and what all images have
    shows = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]] * 4).float()
    images = shows @ things[:3] + 2 * things[3]
    blend, everywhere = things[:3].mean(dim=0), things[3]
    words = torch.stack([blend, everywhere, things[0], things[1], blend + everywhere, things[2]])
    assert pursue(*products(images, words), [-1] * 6, taken=[], count=1, least=4)[0][0] in (2, 3, 5)
    taken, weights, rest = pursue(*products(images, words), [-1] * 6, taken=[], count=3, least=4)
    assert sorted(taken) == [2, 3, 5] and set(rest) == {0, 1, 4}
    torch.testing.assert_close(weights, shows[:, [[2, 3, 5].index(word) for word in taken]].double())


def test_what_is_taken_already_is_explained_away():
    things = torch.eye(3)
    shows = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]]).float()
    words = torch.stack([things[0], things[0] + 0.1 * things[2], things[1], things[2]])
    taken, weights, _ = pursue(*products(shows @ things, words), [-1] * 4, taken=[0], count=3, least=2)
    assert taken[0] == 0 and set(taken) == {0, 2, 3} and weights.shape == (6, 3)


def test_of_its_own_image_a_word_says_nothing():
    by_heart = torch.zeros(6, 2)
    by_heart[2, 0], by_heart[3:, 1] = 9.0, 1.0  # the first word explains the third image alone, from which it is
    gram = torch.eye(2).expand(6, -1, -1).double()
    assert pursue(gram, by_heart.double(), [2, 3], taken=[], count=2, least=3)[0] == [1, 0]


def test_separation_is_the_best_split_of_the_sum_of_squares():
    values = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    assert separation(values, 1) == pytest.approx(values.var(correction=0) * 5)
    assert separation(values, 5) < separation(values, 4) == separation(values, 1)  # three, and its own image
    assert separation(torch.ones(6), 1) == 0
    assert separation(torch.tensor([0.0, 1, 2]), 9) == 0
    assert separation(torch.ones(1), 1) == separation(torch.ones(0), 1) == 0


def test_weights_are_least_squares_and_never_negative():
    scores, truth = torch.randn(2, 8, 3, generator=seeded(0, "scores")), torch.randn(2, 8, 1, generator=seeded(1, "t"))
    gram, cross = (scores.mT @ scores).double(), (scores.mT @ truth)[..., 0].double()
    weights = nonnegative_weights(gram, cross)
    slope = (gram @ weights[..., None])[..., 0] - cross
    assert (weights >= 0).all() and (slope > -1e-6).all() and (slope * weights).abs().max() < 1e-6
    assert nonnegative_weights(gram[:, :0, :0], cross[:, :0]).shape == (2, 0)


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [2, 4, 6]), (7, [3, 6, 7])])
def test_concepts_are_taken_in_three_rounds(count, expected):
    assert goals(count) == expected


def test_it_takes_the_steps_it_says_and_the_same_seed_finds_the_same(start):
    first, again = start(), start()
    assert [len(list(each.steps())) for each in (first, again)] == [first.total, again.total]
    assert first.result.words["text_encoder"].shape == (3, 32) and first.result.weights.shape == (5, 3)
    assert (first.result.weights >= 0).all() and torch.equal(first.result.weights, again.result.weights)
    assert torch.equal(first.result.raw_weights("none"), first.result.weights)


def test_small_calls_find_the_same(start):
    whole, parts = start(4, 2), start(4, 2, rows=3)
    for each in (whole, parts):
        assert len(list(each.steps())) == each.total
    torch.testing.assert_close(parts.result.weights, whole.result.weights, rtol=1e-2, atol=1e-3)


def test_what_others_explain_is_not_learned_again(start):
    ours = start(2, 2)
    words = {name: table.detach() for name, table in ours._mean_words(2).items()}
    words["text_encoder"] += torch.randn(2, 32, generator=seeded(3, "words"))
    tokens, times = ours._teach(words), ours._time(torch.tensor([0.2, 0.6]))
    noisy = torch.randn(2, *ours.model.latent_shape(), generator=seeded(4, "noisy"))
    weights = torch.tensor([[0.5, 0.0], [0.25, 2.0]])
    explained = ours._explained(noisy, times, ["a {}", "one {}"], tokens, weights)
    with torch.no_grad():
        for image, sentence in enumerate(("a {}", "one {}")):
            prompts = ["", *(sentence.format(token) for token in tokens)]
            scores = ours._predicted(noisy[image].expand(3, -1, -1, -1), times[image].expand(3), prompts)
            expected = sum(w * (score - scores[0]) for w, score in zip(weights[image], scores[1:], strict=True))
            torch.testing.assert_close(explained[image], expected, rtol=1e-4, atol=1e-5)


def test_scores_that_are_no_numbers(start, monkeypatch):
    ours = start()
    monkeypatch.setattr(ours.model, "predict", lambda latents, *rest: torch.full_like(latents, torch.nan))
    with pytest.raises(UcdError, match="not finite"):
        ours._measured(ours._mean_words(1), 0)


@pytest.mark.slow
def test_things_that_are_never_alone_are_found_apart():
    """On the built-in model: every pair of three classes, four times."""
    model, rng = load_model("mini", device="cpu"), np.random.default_rng(0)
    shows = [("house", "car"), ("house", "tree"), ("car", "tree")] * 4
    scenes = [draw_scene(rng, labels=pair, night=False, style="", held_out=True) for pair in shows]
    mean, std = model.encode_images(torch.stack([as_pixels(Image.fromarray(scene.image)) for scene in scenes]))
    ours = PursuitStart(model, HeldLatents(mean[None], std[None]), 3, sentences=("a {}",))
    list(ours.steps())
    has = torch.tensor([[thing in pair for thing in ("house", "car", "tree")] for pair in shows])
    stands = {column.argmax().item() for column in _correlations(ours.result.weights, has)}
    assert stands == {0, 1, 2} and _correlations(ours.result.weights, has).amax(dim=1).min() > 0.7


def _correlations(weights: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    """Of each concept's weights with what images show: (K, F)."""
    count = weights.shape[1]
    return torch.corrcoef(torch.cat([weights, has.float()], dim=1).T)[:count, count:]


def test_only_what_is_inside_a_mask_counts(start, monkeypatch):
    ours = start(3, 2)
    words = {name: table.detach() for name, table in ours._mean_words(2).items()}
    words["text_encoder"] += torch.randn(2, 32, generator=seeded(3, "words"))
    mask = torch.zeros(1, 1, *ours.model.latent_shape()[1:])
    mask[..., :4] = 1
    monkeypatch.setattr(ours, "_masks", lambda images: mask)
    masked = ours._measured(words, 0)
    predict = ours.model.predict
    monkeypatch.setattr(ours.model, "predict", lambda *arguments: predict(*arguments) * mask)
    monkeypatch.setattr(ours, "_masks", lambda images: None)
    example = ours._example
    monkeypatch.setattr(ours, "_example", lambda *each: (example(*each)[0], example(*each)[1] * mask))
    torch.testing.assert_close(ours._measured(words, 0), masked)


@pytest.mark.parametrize(
    "options", [{"vectors": 2}, {"where": "output"}, {"sentences_of": [range(1), range(1, 2)] * 2}]
)
def test_concepts_of_every_kind_are_found(start, options):
    ours = start(4, 2, **options)
    assert len(list(ours.steps())) == ours.total
    assert ours.result.weights.shape == (4, 2) and ours.result.weights.isfinite().all()


def test_one_concept_and_one_image(start):
    for ours in (start(2, 1), start(2, 2)):
        assert len(list(ours.steps())) == ours.total
