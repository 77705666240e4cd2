"""A run's samples and weights in numbers. The scorers are stand-ins that read colours; the arithmetic is real."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.commands import evaluate as module
from concepts_cli.commands.evaluate import evaluate
from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.run_dir import Run

OUT = Output(quiet=True)
COLOURS = {"cat": 0, "dog": 1, "fox": 2}  # a class is a channel


class ColourScorer:
    """An image's score for a class is its channel's mean in [0, 1]."""

    def __init__(self, name, threshold, smoothing):
        self.name, self.threshold, self.smoothing = name, threshold, smoothing

    def score(self, paths, class_names):
        means = np.array([np.asarray(open_image(path)).mean(axis=(0, 1)) / 255 for path in paths])
        return means[:, [COLOURS[name] for name in class_names]]

    def find_labels(self, class_names):
        pass


@pytest.fixture(autouse=True)
def scorers(monkeypatch):
    monkeypatch.setattr(module, "load_clip", lambda name, pretrained, device: ColourScorer("CLIP", 0.3, 0.0))
    monkeypatch.setattr(module, "load_resnet", lambda name, device: ColourScorer("ResNet", 0.5, 1e-8))


def paint(folder, shares):
    """{concept: [(red, green, blue) in [0, 1], …]} as PNGs, a sub-folder a concept."""
    for concept, images in shares.items():
        (folder / concept).mkdir(parents=True)
        for n, share in enumerate(images):
            colour = tuple(round(255 * s) for s in share)
            Image.new("RGB", (8, 8), colour).save(folder / concept / f"{n:05d}.png")
    return folder


@pytest.fixture
def samples(tmp_path):
    # t1: cat, cat, dog (too faint to count); t2: dog
    return paint(tmp_path / "painted", {"t1": [(0.9, 0, 0), (0.6, 0.1, 0), (0, 0.2, 0)], "t2": [(0, 0.4, 0)]})


def test_the_papers_numbers_and_the_match(tiny_run, samples):
    result = evaluate(tiny_run, metrics=["clip", "resnet"], samples=samples, device="cpu", out=OUT)["metrics"]
    clip, resnet = result["clip"], result["resnet"]
    assert (clip["accuracy"], clip["threshold"], clip["scorer"]) == (0.75, 0.3, "CLIP")
    assert (resnet["accuracy"], resnet["threshold"], resnet["scorer"]) == (0.5, 0.5, "ResNet")
    assert clip["kl"] == pytest.approx(0, abs=1e-9)  # two images of each class
    assert clip["matched_accuracy"] == 0.75 and clip["images"] == 4
    assert clip["concepts"]["t1"] == {
        "images": 3,
        "best_class": "cat",
        "share": pytest.approx(2 / 3),
        "matched_class": "cat",
        "counts": {"cat": 2, "dog": 1},
    }
    assert clip["concepts"]["t2"]["matched_class"] == "dog"


def test_a_class_that_no_image_shows_makes_kl_infinite_for_clip_alone(tiny_run, samples):
    wanted = {"metrics": ["clip", "resnet"], "class_names": ["cat", "dog", "fox"]}
    result = evaluate(tiny_run, **wanted, samples=samples, device="cpu", out=OUT)["metrics"]
    assert result["clip"]["kl"] is None and 5 < result["resnet"]["kl"] < 8
    json.dumps(result, allow_nan=False)


def test_the_assignment_of_training_images(tiny_run):
    weights = torch.tensor([[2.0, 1], [2, 1], [1, 2], [1, 2], [1, 2], [1, 2]])
    tiny_run.weights = weights  # three cats, three dogs: one cat is taken for a dog
    result = evaluate(tiny_run, metrics=["assignment"], device="cpu", out=OUT)["metrics"]["assignment"]
    assert result["matched_accuracy"] == pytest.approx(5 / 6)
    assert 0 < result["ari"] < 1 and 0 < result["nmi"] < 1
    assert result["concepts"]["t2"]["counts"] == {"cat": 1, "dog": 3}
    assert result["concepts"]["t2"]["share"] == 0.75


def test_samples_are_made_when_missing_and_kept(tiny_run):
    result = evaluate(tiny_run, device="cpu", out=OUT)["metrics"]
    assert list(result) == ["clip"] and result["clip"]["images"] == 4  # the recipe's metric and number of samples
    stamps = {path: path.stat().st_mtime_ns for path in tiny_run.path.glob("samples/t?/*.png")}
    assert len(stamps) == 4
    for path in (tiny_run.path / "samples" / "t2").iterdir():
        path.unlink()
    evaluate(tiny_run, device="cpu", out=OUT)
    after = {path: path.stat().st_mtime_ns for path in tiny_run.path.glob("samples/t?/*.png")}
    assert after.keys() == stamps.keys() and all(after[p] == stamps[p] for p in stamps if p.parent.name == "t1")


def test_other_prompts_samples_are_not_a_concepts(tiny_run, samples):
    paint(tiny_run.path / "samples", {"t1": [(1, 0, 0)], "t2": [(0, 1, 0)], "a-photo-of-a-cat": [(0, 0, 1)]})
    assert evaluate(tiny_run, device="cpu", out=OUT)["metrics"]["clip"]["images"] == 2


def test_samples_of_an_earlier_training_are_refused(tiny_run):
    evaluate(tiny_run, device="cpu", out=OUT)
    again = Run(tiny_run.path)
    again.save_concepts(tiny_run.tokens, tiny_run.embeddings + 1, tiny_run.weights)
    with pytest.raises(UcdError, match="4 samples in .* show concepts of an earlier training"):
        evaluate(again, device="cpu", out=OUT)


def test_evaluation_json_keeps_what_other_calls_found(tiny_run, samples):
    evaluate(tiny_run, metrics=["assignment"], device="cpu", out=OUT)
    evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)
    document = json.loads((tiny_run.path / "evaluation.json").read_text())
    assert set(document["metrics"]) == {"assignment", "clip"}


def test_a_damaged_evaluation_json_is_replaced(tiny_run, samples):
    (tiny_run.path / "evaluation.json").write_text("{")
    evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)
    assert "clip" in json.loads((tiny_run.path / "evaluation.json").read_text())["metrics"]


def test_in_a_pipe_the_tables_are_tab_separated(tiny_run, samples, capsys):
    evaluate(tiny_run, metrics=["clip", "assignment"], samples=samples, device="cpu", out=Output())
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["metric", "accuracy", "KL", "matched", "ARI", "NMI", "scorer"]
    assert lines[1] == ["clip", "75.0%", "0.0000", "75.0%", "", "", "CLIP ≥ 0.3"]
    assert lines[2][0] == "assignment" and lines[2][-1] == "weights"
    assert ["t1", "clip", "3", "cat", "66.7%", "cat"] in lines


@pytest.mark.parametrize("value, expected", [(None, 0.75), (0.5, 0.5), (0.0, 1.0)])
def test_the_threshold_can_be_chosen(tiny_run, samples, value, expected):
    result = evaluate(tiny_run, metrics=["clip"], threshold=value, samples=samples, device="cpu", out=OUT)
    assert result["metrics"]["clip"]["accuracy"] == expected


def without(run, **settings):
    run.recipe = replace(run.recipe, evaluate=replace(run.recipe.evaluate, **settings))
    return run


def test_the_labels_name_the_classes_when_nothing_else_does(tiny_run, samples):
    result = evaluate(without(tiny_run, class_names=None), samples=samples, device="cpu", out=OUT)
    assert result["metrics"]["clip"]["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"metrics": ["clap"]}, "no metric 'clap'"),
        ({"metrics": ["clip", "resnet"], "threshold": 0.5}, "got clip and resnet"),
        ({"metrics": ["assignment"], "threshold": 0.5}, "got none of them"),
        ({"class_names": ["cat", "cat"]}, "given twice: cat"),
        ({"class_names": [" "]}, "no class names"),
    ],
)
def test_mistakes_are_named(tiny_run, options, problem):
    with pytest.raises(UcdError, match=problem):
        evaluate(tiny_run, **options, device="cpu", out=OUT)


def test_no_class_names_and_no_labels(tiny_run):
    bare = without(tiny_run, class_names=None, labels=None)
    with pytest.raises(UcdError, match="no class names") as caught:
        evaluate(bare, device="cpu", out=OUT)
    assert "--class-names" in caught.value.hint
    with pytest.raises(UcdError, match="no labels of the training images"):
        evaluate(bare, metrics=["assignment"], device="cpu", out=OUT)


def test_samples_elsewhere_must_be_there_and_be_images(tiny_run, tmp_path, samples):
    with pytest.raises(UcdError, match="no such folder"):
        evaluate(tiny_run, samples=tmp_path / "gone", device="cpu", out=OUT)
    (tmp_path / "empty" / "t1").mkdir(parents=True)
    with pytest.raises(UcdError, match="no samples in"):
        evaluate(tiny_run, samples=tmp_path / "empty", device="cpu", out=OUT)
    (samples / "t1" / "broken.png").write_bytes(b"")
    with pytest.raises(UcdError, match=r"not a readable image: .*broken\.png"):
        evaluate(tiny_run, samples=samples, device="cpu", out=OUT)
