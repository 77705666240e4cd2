"""A run's samples and weights in numbers. The scorers are stand-ins that read colours; the arithmetic is real."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.evaluate import evaluate, evaluate_runs
from concepts_cli.commands.rename import rename
from concepts_cli.errors import UcdError
from concepts_cli.metrics import inputs as module
from concepts_cli.output import Output
from concepts_cli.runs.run import Run
from tests.colours import ColourScorer, paint

OUT = Output(quiet=True)


@pytest.fixture(autouse=True)
def scorers(monkeypatch):
    monkeypatch.setattr("concepts_cli.scorers.clip.load_clip", lambda *_: ColourScorer("CLIP", 0.3, 0.0))
    monkeypatch.setattr(module, "load_resnet", lambda name, device: ColourScorer("ResNet", 0.5, 1e-8))


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
        "diversity": pytest.approx(1 - (0.6 + 0.1) / 0.37**0.5 / 3, abs=0.01),
        "clip_score": pytest.approx(100 * (0.9 + 0.6 + 0) / 3, abs=0.2),
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


@pytest.mark.parametrize("folder", ["a-photo-of-t2", "a-photo-of-a-t2"])
def test_samples_made_by_the_concepts_prompt_are_found(tiny_run, folder):
    paint(tiny_run.path / "samples", {"t1": [(1, 0, 0)], folder: [(0, 1, 0)]})
    assert evaluate(tiny_run, device="cpu", out=OUT)["metrics"]["clip"]["images"] == 3  # fewer than the recipe's: made
    shutil.rmtree(tiny_run.path / "samples")
    paint(tiny_run.path / "samples", {"t1": [(1, 0, 0)], folder: [(0, 1, 0)] * 3})
    result = evaluate(tiny_run, device="cpu", out=OUT)["metrics"]["clip"]
    assert result["images"] == 4 and result["concepts"]["t2"]["counts"] == {"cat": 0, "dog": 3}


def test_each_scorer_may_know_a_class_by_its_own_name(tiny_run, samples, monkeypatch):
    asked = {}

    def score(scorer, features, names):
        asked[scorer.name] = tuple(names)
        return features[:, :2]

    monkeypatch.setattr(ColourScorer, "score", score)
    run = without(tiny_run, class_names=("cat", "dog"), resnet_class_names=("cat", "fox"))
    options = {"metrics": ["clip", "resnet"], "samples": samples, "device": "cpu", "out": OUT}
    result = evaluate(run, **options)["metrics"]
    assert asked == {"CLIP": ("cat", "dog"), "ResNet": ("cat", "fox")}
    assert result["resnet"]["classes"] == ["cat", "dog"]
    evaluate(run, **options, class_names=["dog", "cat"])
    assert asked["ResNet"] == ("dog", "cat")


def test_samples_of_an_earlier_training_are_refused(tiny_run):
    evaluate(tiny_run, device="cpu", out=OUT)
    again = Run(tiny_run.path)
    again.save_concepts(tiny_run.tokens, {"text_encoder": tiny_run.embeddings["text_encoder"] + 1}, tiny_run.weights)
    with pytest.raises(UcdError, match="4 samples in .* show concepts of an earlier training"):
        evaluate(again, device="cpu", out=OUT)


def test_evaluation_json_keeps_what_other_calls_found(tiny_run, samples):
    evaluate(tiny_run, metrics=["assignment"], device="cpu", out=OUT)
    evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)
    document = json.loads((tiny_run.path / "evaluation.json").read_text())
    assert set(document["metrics"]) == {"assignment", "clip"}


def test_each_metric_carries_the_command_that_computes_it(tiny_run, samples):
    evaluate(tiny_run, metrics=["clip"], samples=samples, threshold=0.3, device="cpu", out=OUT)
    evaluate(tiny_run, metrics=["assignment"], class_names=["dog", "cat"], device="cpu", out=OUT)
    rename(tiny_run, "t2", "clip")
    found = json.loads((tiny_run.path / "evaluation.json").read_text())["metrics"]
    assert {name: metric["command"] for name, metric in found.items()} == {
        "clip": f"ucd evaluate --metric clip --threshold 0.3 --samples {samples.name} --run {tiny_run.path}",
        "assignment": f"ucd evaluate --metric assignment --class-names dog,cat --run {tiny_run.path}",
    }


def test_a_damaged_evaluation_json_is_replaced(tiny_run, samples):
    (tiny_run.path / "evaluation.json").write_text("{")
    evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)
    assert "clip" in json.loads((tiny_run.path / "evaluation.json").read_text())["metrics"]


def test_in_a_pipe_the_tables_are_tab_separated(tiny_run, samples, capsys):
    (samples / "t2" / "more.png").write_bytes((samples / "t1" / "00002.png").read_bytes())
    evaluate(tiny_run, metrics=["clip", "assignment"], samples=samples, device="cpu", out=Output())
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["measure", "clip", "assignment"]
    table = {line[0]: line[1:] for line in lines}
    assert table["accuracy"] == ["60.0% 20.0–100.0", ""] and table["KL"][0].startswith("0.0204 ")
    assert table["matched accuracy"][0].startswith("80.0% ") and table["images"] == ["5", "6"]
    assert table["by"] == ["CLIP", "weights"] and table["threshold"] == ["0.3", ""]
    assert table["t1"][0] == "cat 66.7%" and table["t2"][0] == "dog 100.0%"


def test_no_word_is_broken_at_60_columns(tiny_run, samples, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("concepts_cli.output._is_terminal", lambda stream: True)
    evaluate(tiny_run, metrics=["clip", "resnet", "assignment"], samples=samples, device="cpu", out=Output(quiet=True))
    printed = capsys.readouterr().out
    words = set(printed.split())
    assert {"measure", "assignment", "accuracy", "reversed", "threshold", "diversity", "concept"} <= words
    assert max(map(len, printed.splitlines())) <= 60


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


def test_class_names_of_other_images_are_refused(tiny_run, samples, tmp_path):
    """A recipe's own, where only its images were exchanged."""
    (tmp_path / "other.json").write_text(json.dumps({"geyser-1.png": ["geyser"], "mosque-1.png": ["mosque"]}))
    run = without(tiny_run, labels=str(tmp_path / "other.json"))
    with pytest.raises(UcdError, match="no classes for 6 of 6 images") as caught:
        evaluate(run, metrics=["clip"], samples=samples, device="cpu", out=OUT)
    assert "of other images" in caught.value.hint
    for known in ({"class_names": ["cat", "dog"]}, {}):
        chosen = run if known else without(tiny_run, labels=str(tmp_path / "gone.json"))
        assert evaluate(chosen, metrics=["clip"], samples=samples, device="cpu", out=OUT, **known)["metrics"]["clip"]


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


def test_the_numbers_beyond_the_papers(tiny_run, samples):
    clip = evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)["metrics"]["clip"]
    assert clip["confusion"] == [[2, 1], [0, 1]] and clip["purity"] == 0.75
    assert clip["kl_reverse"] == pytest.approx(0, abs=1e-9)
    assert clip["clip_score"] == pytest.approx(100 * (0.9 + 0.6 + 0 + 0.4) / 4, abs=0.2)
    assert clip["intervals"] == {}  # one sample of t2: there is nothing to draw from
    paint(samples / "more", {"t2": [(0, 0.5, 0)]})
    (samples / "more" / "t2" / "00000.png").rename(samples / "t2" / "00001.png")
    again = evaluate(tiny_run, metrics=["clip"], samples=samples, device="cpu", out=OUT)["metrics"]["clip"]
    low, high = again["intervals"]["accuracy"]
    assert low < again["accuracy"] == 0.8 < high == 1


def test_folders_are_labels_when_the_recipe_names_none(tiny_run):
    for n, image in enumerate(tiny_run.images):
        folder = "cats" if n < 3 else "dogs"
        tiny_run.images[n] = replace(image, path=image.path.replace("/images/", f"/images/{folder}/"))
    tiny_run.weights = torch.tensor([[2.0, 1], [2, 1], [1, 2], [1, 2], [1, 2], [1, 2]])
    found = evaluate(without(tiny_run, labels=None), metrics=["assignment"], device="cpu", out=OUT)["metrics"][
        "assignment"
    ]
    assert found["classes"] == ["cats", "dogs"] and found["matched_accuracy"] == pytest.approx(5 / 6)
    assert found["ari"] == pytest.approx(adjusted_rand_score([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]))
    assert found["confusion"] == [[2, 0], [1, 3]]


@pytest.fixture
def held_out(tmp_path):
    """Four reddish and four greenish pictures, in a folder each."""
    strong = [0.9, 0.8, 0.7, 0.6]
    return paint(tmp_path / "held", {"cat": [(s, 0.1, 0) for s in strong], "dog": [(0.1, s, 0) for s in strong]})


def test_classification_of_held_out_images(tiny_run, held_out):
    options = {"metrics": ["classification"], "held_out": [held_out], "device": "cpu", "out": OUT}
    found = evaluate(tiny_run, **options)["metrics"]["classification"]
    assert found["images"] == 8 and found["classes"] == ["cat", "dog"] and found["folds"] == 4
    assert {name: one["dimensions"] for name, one in found["features"].items()} == {
        "weights": 2,
        "pixels": 3 * 64 * 64,
        "clip": 3,
    }
    assert found["features"]["pixels"]["logistic"] == found["features"]["clip"]["kmeans"] == 1
    assert 0.5 <= found["features"]["weights"]["kmeans"] <= 1
    assert evaluate(tiny_run, **options)["metrics"]["classification"] == found


def test_held_out_images_named_by_the_recipe(tiny_run, held_out, tmp_path):
    labels = {path.relative_to(held_out).as_posix(): ["night", path.parent.name] for path in held_out.rglob("*.png")}
    (tmp_path / "held.json").write_text(json.dumps(labels))
    run = without(tiny_run, held_out=(str(held_out),), held_out_labels=str(tmp_path / "held.json"))
    found = evaluate(run, metrics=["classification"], device="cpu", out=OUT)["metrics"]["classification"]
    assert found["classes"] == ["cat", "dog"]  # the class names say which label counts


def test_held_out_images_must_be_there_and_labelled(tiny_run, held_out):
    for places, problem in [
        ([], "no labelled images"),
        (["gone"], "no such folder or image: gone"),
        ([held_out / "cat"], "have no labels"),
    ]:
        with pytest.raises(UcdError, match=problem):
            evaluate(tiny_run, metrics=["classification"], held_out=places, device="cpu", out=OUT)


@pytest.fixture
def words(tiny_run, tmp_path):
    (tmp_path / "words.txt").write_text("cat\ndog\nfox\n")
    return without(tiny_run, words=str(tmp_path / "words.txt"))


def test_naming(words, samples):
    (samples / "t2" / "00001.png").write_bytes((samples / "t2" / "00000.png").read_bytes())
    words.weights = torch.tensor([[1.0, 0.0]] * 6)
    found = evaluate(words, metrics=["naming"], samples=samples, device="cpu", out=OUT)["metrics"]["naming"]
    first, second = found["concepts"]["t1"], found["concepts"]["t2"]
    assert (first["name"], first["seen"][0]["share"]) == ("cat", pytest.approx(2 / 3)) and not first["dead"]
    assert (second["name"], second["seen"][0]["share"]) == ("dog", 1) and second["dead"]
    assert (first["training_images"], second["training_images"]) == (6, 0)
    assert found["advice"] == "t2 explains no training image: try --set concepts.count=1"
    table = words.load_model("cpu").text.table
    similarities = torch.cosine_similarity(words.embeddings["text_encoder"][:1], table)
    best = first["neighbours"][0]
    assert similarities.max() >= best["similarity"] > similarities.median()
    (index,) = words.load_model("cpu").tokenizer(best["word"], add_special_tokens=False).input_ids
    assert best["similarity"] == pytest.approx(similarities[index].item(), abs=1e-5)


def test_naming_needs_samples_of_every_concept(words, samples):
    (samples / "t2").rename(samples / "other")
    with pytest.raises(UcdError, match="samples of every concept"):
        evaluate(words, metrics=["naming"], samples=samples, device="cpu", out=OUT)


def test_all_leaves_out_what_cannot_be(words, samples, capsys):
    result = evaluate(words, metrics=["all"], samples=samples, device="cpu", out=Output(json=True))
    assert list(result["metrics"]) == ["clip", "resnet", "assignment", "naming", "composition", "recomposition"]
    assert "skipping classification: no labelled images" in capsys.readouterr().err
    json.dumps(result, allow_nan=False)


def test_several_runs_have_a_spread(tiny_run, tmp_path, samples, capsys):
    other = Run(tmp_path / "other")
    other.begin(tiny_run.recipe, tiny_run.images)
    weights = torch.tensor([[2.0, 1], [2, 1], [1, 2], [1, 2], [1, 2], [1, 2]])
    tiny_run.weights = weights.flip(0).roll(1, 1)  # as many right
    other.save_concepts(tiny_run.tokens, tiny_run.embeddings, torch.eye(2)[[0, 0, 0, 1, 1, 1]])
    found = evaluate_runs([tiny_run, other], metrics=["assignment"], device="cpu", out=Output(quiet=True))
    spread = found["spread"]["assignment"]["matched_accuracy"]
    assert spread["values"] == [pytest.approx(5 / 6), 1]
    assert spread["mean"] == pytest.approx(11 / 12) and spread["std"] == pytest.approx(np.std(spread["values"], ddof=1))
    assert (other.path / "evaluation.json").is_file() and len(found["runs"]) == 2
    assert "assignment\tmatched accuracy\t91.7% ± 11.8" in capsys.readouterr().out.splitlines()


def test_json_of_the_command_is_one_document(tiny_run, samples):
    result = CliRunner().invoke(
        app, ["evaluate", "-m", "clip", "-m", "assignment", "--samples", str(samples), "--json", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["metrics"]) == {"clip", "assignment"}
