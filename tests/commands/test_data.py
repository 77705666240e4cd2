"""Images as people have them, put through what a user does: train, resume, encode, evaluate, report."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import evaluate
from concepts_cli.commands.report import report
from concepts_cli.commands.train import Trainer, train
from concepts_cli.core import starting
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import choose_recipe, load_recipe
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


def run_recipe(recipe_file, *overrides, **options) -> Run:
    return train(load_recipe(recipe_file, overrides), device="cpu", **{"out": QUIET} | options)


def assert_whole_round(recipe_file: Path, workplace: Path, images: list, *overrides: str) -> Run:
    """Train at once and in two parts, which end at the same bits; then encode, evaluate and report."""
    whole = run_recipe(recipe_file, *overrides)
    run_recipe(recipe_file, *overrides, "train.max_steps=1", output=workplace / "parts")
    parts = run_recipe(recipe_file, *overrides, output=workplace / "parts", resume=True)
    for name in ("concepts.safetensors", "weights.safetensors"):
        assert (whole.path / name).read_bytes() == (parts.path / name).read_bytes()
    assert [record.sha256 for record in whole.images] == [record.sha256 for record in parts.images]
    again = Run(whole.path)
    encoded = encode(again, images, steps=2, device="cpu", out=QUIET)["images"]
    assert len(encoded) >= 1 and all(np.isfinite(image["loss"]) for image in encoded)
    found = evaluate(again, metrics=["assignment"], device="cpu", out=QUIET)["metrics"]
    assert set(found) == {"assignment"}
    assert report(again).read_text().count("data:image/") >= len(again.images)
    return again


@pytest.fixture
def shapes(workplace, recipe_file, image_folder) -> Path:
    """Six images: wide, tall and square ones."""
    rng = np.random.default_rng(1)
    for n, size in enumerate([(40, 80), (80, 40), (40, 40), (41, 79), (64, 64), (30, 95)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(image_folder / f"{n}.png")
    return image_folder


def test_buckets(recipe_file, workplace, shapes):
    run = assert_whole_round(recipe_file, workplace, [shapes / "1.png"], "data.resize=bucket")
    assert not torch.equal(run.weights, run_recipe(recipe_file).weights)


CAPTIONS = ["a photo of {} on a table", "a red {}", "in the style of {}, blue", "a dog", "a {", "{} {}"]


@pytest.fixture
def captioned(image_folder) -> Path:
    for n, caption in enumerate(CAPTIONS):
        (image_folder / f"{n}.txt").write_text(caption + "\n")
    return image_folder


def test_captions_beside_images(recipe_file, workplace, captioned):
    options = ["data.captions=.txt"]
    run = assert_whole_round(recipe_file, workplace, [captioned], *options)
    assert [record.caption for record in run.images] == [*CAPTIONS[:3], "{}, a dog", "{}, a {", "{} {}"]
    (captioned / "3.txt").write_text("another")
    with pytest.raises(UcdError, match=r"images are not those that .* began with: .*3\.png"):
        run_recipe(recipe_file, *options, "train.max_steps=4", output=run.path, resume=True)


def test_captions_are_the_prompts_that_words_are_learned_in(recipe_file, workplace, captioned):
    trainer = Trainer(load_recipe(recipe_file, ["data.captions=.txt"]), device="cpu", out=QUIET)
    training = trainer.training
    prompts = training.objective.model.text.tokenizer.batch_decode(
        training.objective.prompts.tensors["text_encoder"], skip_special_tokens=True
    )
    batch = training.draws.batch(range(12))
    for row, sentence in zip(batch.rows.tolist(), batch.sentences[:, 1].tolist(), strict=True):
        prompt = prompts[training.objective.prompt_of[sentence, 1]]
        words = sentence_of(trainer.recipe, CAPTIONS[row], "<t2>")
        assert prompt.replace(" ", "") == words.replace(" ", ""), (prompt, words)


def sentence_of(recipe, caption: str, token: str) -> str:
    return (caption if "{}" in caption else "{}, " + caption).replace("{}", token)


def test_a_caption_whose_concept_the_model_does_not_read(recipe_file, workplace, captioned, capsys):
    (captioned / "2.txt").write_text("red " * 30)
    run_recipe(recipe_file, "data.captions=.txt", "train.max_steps=1", out=Output())
    assert "the captions of 1 of 6 images are longer than the model's 16 tokens" in capsys.readouterr().err
    (captioned / "2.txt").write_text("red " * 30 + "{}")
    with pytest.raises(UcdError, match=r"the caption of .*2\.png has its \{\} behind the model's 16 tokens"):
        run_recipe(recipe_file, "data.captions=.txt")


def test_a_caption_column_of_a_list(recipe_file, workplace, image_folder):
    rows = [f'images/{n}.png,"a photo of {{}} number {n}"' for n in (5, 0, 3)]
    (workplace / "list.csv").write_text("\n".join(["path,text", *rows]))
    run = assert_whole_round(
        recipe_file, workplace, [workplace / "list.csv"], "data.images=list.csv", "data.captions=text"
    )
    assert [Path(record.path).name for record in run.images] == ["5.png", "0.png", "3.png"]
    assert run.images[1].caption == "a photo of {} number 0"


def test_a_list_in_parquet(recipe_file, workplace, image_folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = [f"images/{n}.png" for n in range(6)]
    table = pyarrow.table({"file_name": names, "text": ["a {}"] * 6})
    parquet.write_table(table, workplace / "list.parquet")
    images = [workplace / "list.parquet"]
    run = assert_whole_round(recipe_file, workplace, images, "data.images=list.parquet", "data.captions=text")
    assert {record.caption for record in run.images} == {"a {}"}


def test_a_webdataset(recipe_file, workplace, captioned):
    for shard in range(2):
        with tarfile.open(workplace / f"shard-{shard:02d}.tar", "w") as tar:
            for n in range(3 * shard, 3 * shard + 3):
                tar.add(captioned / f"{n}.png", f"{n}.png")
                tar.add(captioned / f"{n}.txt", f"{n}.txt")
    images, options = "shard-{00..01}.tar", ["data.captions=.txt", "train.seed=2"]
    run = assert_whole_round(recipe_file, workplace, [workplace / images], f"data.images={images}", *options)
    folder = run_recipe(recipe_file, *options)
    assert torch.equal(run.weights, folder.weights)
    assert [record.caption for record in run.images] == [record.caption for record in folder.images]


def test_a_dataset(recipe_file, workplace, captioned):
    """A local one, in the layout that the hub has, too."""
    datasets = pytest.importorskip("datasets")

    pictures = [{"bytes": (captioned / f"{n}.png").read_bytes(), "path": None} for n in range(6)]
    rows = {"image": pictures, "text": CAPTIONS}
    kinds = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    (workplace / "set").mkdir()
    datasets.Dataset.from_dict(rows, kinds).to_parquet(workplace / "set" / "train.parquet")
    (workplace / "labels.json").write_text(json.dumps({f"{n:08d}.png": ["cat" if n < 3 else "dog"] for n in range(6)}))
    options = ["data.captions=text", "train.seed=2"]
    run = assert_whole_round(recipe_file, workplace, ["hf:./set[train]"], "data.images=hf:./set[train]", *options)
    assert [Path(record.path).name for record in run.images] == [f"{n:08d}.png" for n in range(6)]
    assert run.recipe.data.images == (f"hf:{workplace / 'set'}[train]",)
    folder = run_recipe(recipe_file, "data.captions=.txt", "train.seed=2", "evaluate.labels=null")
    assert [record.sha256 for record in run.images] == [record.sha256 for record in folder.images]
    assert torch.equal(run.weights, folder.weights)


def test_places_of_several_kinds_and_their_properties(recipe_file, workplace, image_folder):
    (workplace / "list.csv").write_text("path\nimages/1.png\nimages/2.png\n")
    options = ["data.images=[images/0.png, list.csv]", "concepts.properties=[object, style]"]
    run = run_recipe(recipe_file, *options)
    assert [record.place for record in run.images] == [0, 1, 1]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("images", "images"),
        ("list.csv", "list"),
        ("photos.tar", "photos"),
        ("Photos.TGZ", "Photos"),
        ("hf:a/b[train]", "b"),
    ],
)
def test_what_holds_images_does_for_a_recipe(workplace, image_folder, source, name):
    recipe = choose_recipe(source, {"model": "mini"})
    assert recipe.name == name
    assert recipe.data.images == (source if source.startswith("hf:") else str(workplace / source),)


def test_masks_beside_images(recipe_file, workplace, image_folder):
    white = np.zeros((40, 48), np.uint8)
    white[10:30, 8:20] = 255
    for n in range(6):
        Image.fromarray(white).save(image_folder / f"{n}-mask.png")
    options = ["data.masks=-mask.png"]
    run = assert_whole_round(recipe_file, workplace, [image_folder], *options)
    assert len(run.images) == 6 and all(record.mask for record in run.images)
    again = encode(run, [image_folder / "0.png"], steps=2, device="cpu", out=QUIET)["images"][0]
    (image_folder / "0-mask.png").unlink()
    assert encode(run, [image_folder / "0.png"], steps=2, device="cpu", out=QUIET)["images"][0]["loss"] != again["loss"]
    Image.fromarray(white[::-1] // 2).save(image_folder / "0-mask.png")
    with pytest.raises(UcdError, match=r"images are not those that .* began with: .*0\.png"):
        run_recipe(recipe_file, *options, "train.max_steps=4", output=run.path, resume=True)
    Image.fromarray(white * 0).save(image_folder / "3-mask.png")
    with pytest.raises(UcdError, match=r"3-mask\.png is black all over"):
        run_recipe(recipe_file, *options)
    assert not (workplace / "runs" / "tiny-3" / "recipe.yaml").exists()


def test_a_baseline_learns_inside_the_masks_too(recipe_file, workplace, image_folder):
    for n in range(6):
        Image.new("L", (48, 40), 255).save(image_folder / f"{n}-mask.png")
    options = ["train.method=textual-inversion", "data.masks=-mask.png"]
    white = run_recipe(recipe_file, *options)
    for n in range(6):
        half = Image.new("L", (48, 40), 0)
        half.paste(255, (0, 0, 20, 40))
        half.save(image_folder / f"{n}-mask.png")
    assert not torch.equal(
        white.embeddings["text_encoder"], run_recipe(recipe_file, *options).embeddings["text_encoder"]
    )


def test_everything_at_once_in_a_tar(recipe_file, workplace, shapes, monkeypatch):
    for name in ("CANDIDATE_STEPS", "WORD_STEPS", "MORE"):  # which words it finds does not matter here
        monkeypatch.setattr(starting, name, 2)
    with tarfile.open(workplace / "x.tar", "w") as tar:
        for n in range(6):
            path = shapes / f"{n}.png"
            half = Image.new("L", Image.open(path).size, 0)
            half.paste(255, (0, 0, 20, 99))
            half.save(workplace / "m.png")
            (workplace / "c.txt").write_text(f"a photo of {{}}, {n}")
            for file, name in ((path, "png"), (workplace / "m.png", "mask.png"), (workplace / "c.txt", "txt")):
                tar.add(file, f"photos/{n}.{name}")
    options = ["data.images=x.tar", "data.captions=.txt", "data.masks=.mask.png", "data.resize=bucket"]
    options += ["concepts.start=images", "concepts.start_restarts=1"]
    run = assert_whole_round(recipe_file, workplace, [workplace / "x.tar"], *options)
    assert all(record.mask and record.caption for record in run.images)
