"""Words from elsewhere: files of other tools, the published code's folder, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import concepts_cli as interface
from concepts_cli.cli import app
from concepts_cli.commands.export import export
from concepts_cli.commands.import_concepts import import_concepts
from concepts_cli.commands.train import train
from concepts_cli.errors import UcdError
from concepts_cli.models import TOOLS
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from tests.models.tiny_t5 import build_pixart
from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image

BUILD = {"xl": build_xl, "z-image": build_z_image, "pixart": build_pixart}
ROWS = torch.arange(64, dtype=torch.float32).reshape(2, 32) / 64


@pytest.fixture(params=[("sd", 1), ("xl", 1), ("z-image", 1), ("pixart", 1), ("sd", 2), ("xl", 2)], ids=str)
def run(request, workplace, recipe_file, tmp_path):
    family, vectors = request.param
    overrides = ["train.max_steps=1", f"concepts.vectors={vectors}", "concepts.property=null"]
    if family in BUILD:
        BUILD[family](tmp_path / "model")
        overrides.append(f"model={tmp_path / 'model'}")
    run = train(load_recipe(recipe_file, overrides), device="cpu", out=Output(quiet=True))
    run.tools = {"comfyui"} if family in ("z-image", "pixart") else set(TOOLS)
    return run


def test_what_was_exported_comes_back(run):
    for tool in run.tools:
        again = import_concepts(export(run, tool=tool), model=run.recipe.model, name=f"from {tool}")
        names_them = tool == "diffusers" and "clip_l" not in run.embeddings
        names = ("<t1>", "<t2>") if names_them else ("<tiny-t1>", "<tiny-t2>")
        assert again.tokens == names and again.name == f"from {tool}"
        torch.testing.assert_close(again.embeddings, run.embeddings, rtol=0, atol=0)
        assert again.load_model("cpu").encode_prompts(["a <tiny-t1>"]) is not None and not again.has_images()


@pytest.mark.parametrize(
    ("name", "content", "tokens"),
    [
        ("koala.bin", {"<koala>": ROWS[0]}, ("<koala>",)),
        ("koala.bin", {"<koala>": ROWS[:1].half()}, ("<koala>",)),
        ("my koala.pt", {"emb_params": ROWS[:1]}, ("<my-koala>",)),
        ("some.pt", {"string_to_param": {"*": ROWS[:1]}, "name": "koala", "step": 100}, ("<koala>",)),
        ("some.pt", {"string_to_param": {"*": torch.nn.Parameter(ROWS[:1])}}, ("<some>",)),
        ("learned_embeds.bin", {"<t1>, <t2>": ROWS}, ("<t1>", "<t2>")),
        ("several.bin", {"<cat>": ROWS[0], "<dog>": ROWS[1]}, ("<cat>", "<dog>")),
    ],
)
def test_pickled_files_are_read_as_tensors(workplace, tiny_folder, name, content, tokens):
    torch.save(content, name)
    run = import_concepts([workplace / name], model=str(tiny_folder))
    assert run.tokens == tokens
    torch.testing.assert_close(run.embeddings["text_encoder"], ROWS[: len(tokens)], atol=1e-3, rtol=0)


@pytest.fixture
def published(workplace, image_folder):
    """What the published code leaves: words under one key, weights (N, K, 1, 1, 1), and where the images were."""
    folder = workplace / "checkpoint"
    folder.mkdir()
    torch.save({"<t1>,<t2>": ROWS}, folder / "learned_embeds.bin")
    torch.save({"weights": torch.arange(8.0).reshape(4, 2, 1, 1, 1)}, folder / "weights.bin")
    places = {str(row): f"{row}.png" for row in (3, 1, 0, 2)}
    listed = {row: os.path.join("/elsewhere/data", name) for row, name in places.items()}
    (folder / "dataset_info.json").write_text(json.dumps(listed))
    return folder


def test_the_published_codes_folder_becomes_a_run(published, tiny_folder, image_folder):
    def ucd(*arguments: str, status: int = 0):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == status, result.output
        return result

    made = ucd("import", published, "--model", tiny_folder, "--images", image_folder)
    assert made.stdout.strip() == os.path.join("runs", "checkpoint")
    assert "warning" not in made.stderr and "words of runs/checkpoint: <t1> <t2>\nnext: ucd sample" in made.stderr
    run = interface.open_run("checkpoint", device="cpu")
    assert run.concepts == ("t1", "t2") and "in 4 images" in repr(run)
    torch.testing.assert_close(run.weights, torch.arange(8.0).reshape(4, 2))
    assert [os.path.basename(image.path) for image in run.images] == [f"{row}.png" for row in range(4)]
    assert len(run.sample("t2", n=1, steps=1)) == 1 and run.encode(run.images[0].path, steps=1).shape == (2,)
    assert run.report().is_file() and len(run.export("comfyui")) == 2


def test_without_its_images_the_weights_are_left_out(published, tiny_folder):
    model = str(tiny_folder)
    for arguments, problem in (
        ([published], "4 of 4 training images are not here; --images FOLDER says where they are"),
        ([published / "learned_embeds.bin", published / "weights.bin"], "dataset_info.json is missing"),
    ):
        result = CliRunner().invoke(app, ["import", *map(str, arguments), "--model", model, "--json"])
        assert result.exit_code == 0 and result.stderr.count("warning") == 1 and problem in result.stderr
        assert json.loads(result.stdout)["concepts"] == ["<t1>", "<t2>"]
    run = interface.import_concepts(published / "learned_embeds.bin", model=model, name="words", device="cpu")
    assert "images" not in repr(run) and len(run.compose({"t1": 2, "t2": 1}, n=1, steps=1)) == 1
    with pytest.raises(UcdError, match=r"images.jsonl is missing"):
        run.evaluate("assignment")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("bad.bin", {"<t1>": Malicious()}, "can't be read without running what is in it"),
        ("bad.bin", b"not a pickle", "can't be read without running what is in it"),
        ("bad.bin", [ROWS], "holds no words"),
        ("bad.bin", {"<t1>": "koala"}, "holds something other than words"),
        ("bad.bin", {"<t1>": ROWS[:1] * float("nan")}, "holds numbers that no word has"),
        ("bad.bin", {"<t1>": ROWS[None]}, "<t1> has 1 x 2 vectors"),
        ("bad.bin", {"<t1>,<t2>,<t3>": ROWS}, "names 3 words and has 2 vectors"),
        ("bad.bin", {"../x/../y": ROWS[:1], "<x-y>": ROWS[:1]}, "have the same name"),
        ("bad.bin", {"<cat>": ROWS[:1], "<dog>": ROWS[:1, :16]}, "were learned on different models"),
        ("bad.bin", {"<cat>": ROWS, "<dog>": ROWS[:1]}, "these words have 1 and 2 vectors"),
        ("bad.bin", {"<all>": ROWS[:1]}, "can't name a concept"),
        ("bad.safetensors", {"clip_l": ROWS[:1], "clip_g": ROWS[:1]}, "is made for another kind of model"),
        ("bad.safetensors", b"x", "is damaged"),
        ("bad.txt", b"x", "is not a textual-inversion file"),
    ],
)
def test_other_files_are_refused_in_a_line(workplace, tiny_folder, name, content, problem):
    if isinstance(content, bytes):
        (workplace / name).write_bytes(content)
    elif name.endswith(".bin"):
        torch.save(content, name)
    else:
        save_file({key: tensor.clone() for key, tensor in content.items()}, name)
    result = CliRunner().invoke(app, ["import", name, "--model", str(tiny_folder)])
    assert result.exit_code == 2 and problem in result.stderr and result.stderr.count("\n") <= 2, result.output
    assert not (workplace / "ran").exists() and not (workplace / "runs").exists()


def test_mistakes_of_the_command(workplace, tiny_folder, published):
    def mistake(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["import", *map(str, arguments)])
        assert result.exit_code == 2, result.output
        return result.stderr

    assert "--model is missing" in mistake(published)
    assert "no such file: nowhere.bin" in mistake("nowhere.bin", "--model", tiny_folder)
    assert "no such model folder" in mistake(published, "--model", "./nowhere")
    assert "is not a folder of the published code" in mistake(tiny_folder, "--model", tiny_folder)
    assert "no words in" in mistake(published / "weights.bin", "--model", tiny_folder)
    assert "--name: got '../x'" in mistake(published, "--model", tiny_folder, "--name", "../x")
    (workplace / "full").mkdir()
    (workplace / "full" / "file").write_text("x")
    assert "--output full is not empty" in mistake(published, "--model", tiny_folder, "--output", "full")
    shutil.copy(published / "learned_embeds.bin", published / "weights.bin")
    assert "holds no weights of the published code" in mistake(published, "--model", tiny_folder)


def test_training_can_start_from_imported_words(published, tiny_folder, recipe_file):
    start = import_concepts([published / "learned_embeds.bin"], model=str(tiny_folder), name="start")
    recipe = load_recipe(recipe_file, ["train.start_from=start", "train.max_steps=1"])
    trained = train(recipe, device="cpu", out=Output(quiet=True))
    difference = trained.embeddings["text_encoder"] - start.embeddings["text_encoder"]
    assert 0 < difference.abs().max() < 0.02
