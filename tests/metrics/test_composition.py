"""Compositions and recompositions: which pictures are made, what counts as seen, and the shares of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concepts_cli.commands.evaluate import evaluate
from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError
from concepts_cli.metrics import composition, inputs, presence
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.output import Output
from tests.colours import COLOURS, ColourScorer

OUT = Output(quiet=True)


class Channels:
    """A stand-in for CLIP: an image's features are the means of its channels, scaled to length 1."""

    name, caveat, threshold, smoothing = "channels", None, 0.3, 0.0

    def features(self, paths):
        means = np.array([np.asarray(open_image(path)).mean(axis=(0, 1)) + 1 for path in paths])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def check(self, names):
        pass


@pytest.fixture
def painted(tiny_run, monkeypatch):
    """A run whose samples of t1 are red and of t2 green; what is composed is painted as `colours` says."""
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda name, pretrained, device: Channels())
    for concept, colour in (("t1", "red"), ("t2", "lime")):
        for n in range(3):
            path = tiny_run.path / "samples" / concept / f"{n:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour).save(path)

    def paint(colours):
        def make(plan, **options):
            for (path, _), colour in zip(plan.planned, colours, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), colour).save(path)

        monkeypatch.setattr(composition, "make_missing", make)
        # A picture with some of a colour shows it.
        score = presence.concept_presence
        monkeypatch.setattr(
            composition,
            "concept_presence",
            lambda given: replace(score(given), thresholds=np.array([0.3, 0.3])),
        )
        return tiny_run

    return paint


def test_both_are_seen_where_both_colours_are(painted):
    run = painted(["yellow", "red", "yellow", "blue"])
    found = evaluate(run, metrics=["composition"], device="cpu", out=OUT)["metrics"]["composition"]
    assert found["both_seen"] == 0.5 and found["images"] == 4
    assert found["matrix"] == [[None, 0.5], [0.5, None]]
    assert list(found["concepts"]) == ["t1", "t2"]


def test_an_image_agrees_when_the_same_is_seen_in_it_and_made_anew(painted):
    colours = ["red", "yellow", "lime", "red", "lime", "yellow"]
    run = painted(colours)
    for record, colour in zip(run.images, ["red", "red", "red", "red", "lime", "yellow"], strict=True):
        Image.new("RGB", (8, 8), colour).save(record.path)
    found = evaluate(run, metrics=["recomposition"], device="cpu", out=OUT)["metrics"]["recomposition"]
    assert found["agreement"] == pytest.approx(4 / 6)
    assert found["overlap"] == pytest.approx((4 + 0.5 + 0) / 6)


def test_thresholds_are_of_a_concepts_own_samples(painted):
    run = painted([])
    judge = presence.concept_presence(MetricInputs(run, device="cpu", out=OUT))
    own = [Path(run.path / "samples" / name / "00000.png") for name in ("t1", "t2")]
    assert judge.seen(own).tolist() == [[True, False], [False, True]]


def test_real_pictures_are_made_and_kept(tiny_run, monkeypatch):
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda name, pretrained, device: Channels())
    wanted = ["composition", "recomposition"]
    first = evaluate(tiny_run, metrics=wanted, device="cpu", out=OUT)["metrics"]
    made = sorted(tiny_run.path.glob("metrics/**/*.png"))
    assert len(made) == 4 + len(tiny_run.images)
    stamps = [path.stat().st_mtime_ns for path in made]
    assert evaluate(tiny_run, metrics=wanted, device="cpu", out=OUT)["metrics"] == first
    assert [path.stat().st_mtime_ns for path in made] == stamps


def test_missing_training_images_are_told_before_the_work(tiny_run, monkeypatch):
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda name, pretrained, device: Channels())
    Path(tiny_run.images[0].path).unlink()
    with pytest.raises(UcdError, match="is missing"):
        evaluate(tiny_run, metrics=["recomposition"], device="cpu", out=OUT)


def test_a_concepts_word_sets_it_apart():
    """All show the day; the first shows the car best, and the second, faintly, the tree."""
    means = np.array([[9.0, 3.0, -2.0], [9.5, -2.0, 1.0]])  # day, car, tree
    assert presence.own_words(means).tolist() == [1, 2]
    assert presence.own_words(means[:1]).tolist() == [0]


def test_the_built_in_reader_answers_for_that_word(painted, monkeypatch):
    run = painted([])
    run.recipe = replace(run.recipe, model="mini")
    scorer = ColourScorer("reader", 0.5, 0.0)
    monkeypatch.setattr(inputs, "load_built_in_resnet", lambda device: scorer)
    monkeypatch.setattr(inputs, "known_words", lambda built_in: list(COLOURS))
    judge = presence.concept_presence(MetricInputs(run, device="cpu", out=OUT))
    assert judge.words == ("cat", "dog") and judge.scorer == "reader"  # red and green
    both = run.path / "both.png"
    Image.new("RGB", (8, 8), "yellow").save(both)
    assert judge.seen([both, run.path / "samples" / "t1" / "00000.png"]).tolist() == [[True, True], [True, False]]
