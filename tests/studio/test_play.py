"""What the page can ask for, without a browser and without Gradio."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

import pytest
from PIL import Image

import concepts_cli as ucd
from concepts_cli.recipe import load_recipe
from concepts_cli.runs.files import write_png
from concepts_cli.studio.play import Studio


@pytest.fixture
def studio(tiny_run):
    return Studio.of([tiny_run.path], device="cpu")


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_run_is_described(studio, tiny_run):
    run = studio.describe(0)
    assert run["name"] == "tiny" and run["total"] == 6 and run["kept"] == []
    assert [concept["name"] for concept in run["concepts"]] == ["t1", "t2"]
    assert [image["weights"] for image in run["images"]] == tiny_run.weights.tolist()
    assert all(picture(image["picture"]).size == (48, 40) for image in run["images"])
    assert run["limit"] >= run["scale"] > 0


def test_a_mix_is_the_picture_that_the_command_makes(studio, tiny_run):
    *first, last = studio.mix(0, [["t1", 3], ["a cat", -1], ["t2", 0]], 5, "pane", 1)
    assert len(first) == 1 and last["step"] == last["steps"] == 2
    (made,) = studio.runs[0].compose({"t1": 3, "a cat": -1}, n=1, seed=5)
    assert picture(last["picture"]).tobytes() == made.tobytes()
    assert last["command"].startswith("ucd compose t1=3 'a cat=-1' --num-images 1 --seed 5 --run ")


def test_a_newer_request_of_a_pane_ends_the_older_one_and_no_other(studio):
    older, other = studio.mix(0, [["t1", 1]], 0, "a", 1), studio.mix(0, [["t2", 1]], 0, "b", 1)
    assert next(older)["step"] == next(other)["step"] == 1
    newer = studio.mix(0, [["t1", 2]], 0, "a", 2)
    assert next(newer)["step"] == 1
    assert list(older) == [] and next(other)["step"] == 2 and next(newer)["step"] == 2


def test_no_picture_is_finished_once_the_server_ends(studio):
    frames = studio.mix(0, [["t1", 1]], 0, "pane", 1)
    assert next(frames)["step"] == 1
    studio.is_ending = lambda: True
    assert list(frames) == []


def test_two_pages_share_one_model(studio, tiny_run, monkeypatch):
    loaded = []
    load = type(tiny_run).load_model
    monkeypatch.setattr(type(tiny_run), "load_model", lambda *given: loaded.append(1) or load(*given))
    both = Studio.of([tiny_run.path, tiny_run.path], device="cpu")
    both.load_models()
    done = []

    def play(place, pane):
        done.append([answer["step"] for answer in both.mix(place, [["t1", 1]], 0, pane, 1)])

    threads = [threading.Thread(target=play, args=(n % 2, f"page {n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [[1, 2]] * 4 and loaded == [1]


def test_changes_wait_for_their_turn(studio):
    changes = [
        lambda: studio.export(0, [["t1", 1]], "mix", "embedding"),
        lambda: studio.merge(0, ["t1", "t2"]),
        lambda: studio.drop(0, "t2"),
    ]
    done: list[int] = []
    with studio._turn:
        threads = [threading.Thread(target=lambda change=change: (change(), done.append(1))) for change in changes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.1)
        assert done == [] and len(studio.runs) == 1
    for thread in threads:
        thread.join()
    assert len(done) == 3 and {run.name for run in studio.runs[1:]} == {"tiny-merged-t1-t2", "tiny-without-t2"}


def test_a_mix_starts_from_an_image(studio):
    run, image = studio.runs[0], studio.describe(0)["images"][1]
    assert dict(studio.start_from(0, 1)["terms"]) == run.terms_like(run.images[1].path)
    assert set(dict(studio.start_from(0, image["picture"])["terms"])) <= {"t1", "t2"}  # one from elsewhere is encoded
    with pytest.raises(ucd.UcdError, match="can't be read as an image"):
        studio.start_from(0, "data:image/png;base64,AAAA")


def test_a_heat_map_of_a_training_image_and_of_any_other(studio):
    image = studio.describe(0)["images"][0]
    for source in (0, image["picture"]):
        found = studio.heat(0, "t1", source)
        assert picture(found["picture"]).size[0] >= 48 and 0 <= found["coverage"] <= 1


def test_an_image_that_has_changed_is_not_shown(studio, tiny_run):
    Path(tiny_run.images[0].path).write_bytes(Path(tiny_run.images[1].path).read_bytes())
    assert studio.describe(0)["images"][0]["picture"] is None
    for call in (lambda: studio.heat(0, "t1", 0), lambda: studio.start_from(0, 0), lambda: studio.start_from(0, 99)):
        with pytest.raises(ucd.UcdError, match="no longer there"):
            call()


def test_a_kept_mix_comes_back_and_is_on_the_report(studio, tiny_run):
    terms = [["t1", 3], ["a cat@left", -1.5]]
    (kept,) = studio.keep(0, terms, 7)["kept"]
    assert kept["terms"] == [("t1", 3.0), ("a cat@left", -1.5)] and kept["seed"] == 7
    assert len(studio.keep(0, terms, 8)["kept"]) == 2  # another seed is another picture
    run = studio.runs[0]
    run.compose(["t1=1"], sweep="t2=0:1:2", output=run.path / "compositions")
    run.compose({"t1": 1}, like=run.images[0].path, n=1, output=run.path / "compositions")
    assert len(studio.describe(0)["kept"]) == 2  # those have no terms of their own
    assert "ucd compose t1=3" in run.report().read_text()


@pytest.mark.parametrize("said", ["t1=nan", "t1=inf", "t1", "=3", "t1=5 --seed x", "t1=5 --like a.png", "'", ""])
def test_what_is_no_mix_is_not_among_the_kept(studio, tiny_run, said):
    path = tiny_run.path / "compositions" / "odd" / "00000.png"
    write_png(path, Image.new("RGB", (8, 8)), {"command": f"ucd compose {said}"})
    assert studio.describe(0)["kept"] == []


def test_a_mix_is_exported(studio):
    terms = [["t1", 3], ["t2", 1], ["a cat", 2]]
    word = studio.export(0, terms, "hybrid", "embedding")
    assert word["file"] == "hybrid.safetensors" and b"<hybrid>" in base64.b64decode(word["data"])
    recipe = studio.export(0, terms, "hybrid", "recipe")
    Path("on.yaml").write_text(recipe["text"])
    start = load_recipe(Path("on.yaml")).train.start_from
    assert ucd.open_run(start).concepts == ("hybrid",) and start.endswith("runs/tiny-hybrid")
    with pytest.raises(ucd.UcdError, match="above 0"):
        studio.export(0, [["a cat", 2]], "hybrid", "embedding")


def test_concepts_are_renamed_merged_and_dropped(studio):
    assert [concept["name"] for concept in studio.rename(0, "t1", "dog")["concepts"]] == ["dog", "t2"]
    merged = studio.merge(0, ["dog", "t2"])
    assert (merged["run"], merged["name"]) == (1, "tiny-merged-dog-t2") and len(merged["concepts"]) == 1
    assert studio.drop(0, "t2")["run"] == 2 and len(studio.describe(0)["concepts"]) == 2
    assert [answer["step"] for answer in studio.mix(2, [["dog", 2]], 0, "pane", 1)] == [1, 2]
    for call, message in (
        (lambda: studio.drop(0, "t1"), "no concept 't1'"),
        (lambda: studio.rename(0, "dog", "t2"), "is the name of another concept"),
        (lambda: studio.describe(9), "not in the studio any more"),
        (lambda: list(studio.mix(0, ["t1"], 0, "pane", 2)), "are not terms"),
    ):
        with pytest.raises(ucd.UcdError, match=message):
            call()


def test_imported_words_have_no_images_and_are_played_with_all_the_same(studio):
    file = studio.runs[0].export("diffusers", concepts="t1")[0]
    words = ucd.import_concepts(file, model=studio.runs[0].recipe.model, device="cpu")
    alone = Studio([words])
    described = alone.describe(0)
    assert described["images"] == [] and described["total"] == 0 and described["concepts"][0]["face"] is None
    assert next(alone.mix(0, [[words.concepts[0], 2]], 0, "pane", 1))["step"] == 1
