"""Models in one file: the weights are those of the folder, and the configuration is the published one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from concepts_cli.commands.train import plan, train
from concepts_cli.errors import UcdError
from concepts_cli.models import check_words, family_of, load_model
from concepts_cli.models.files import check_model
from concepts_cli.models.layouts import clip_vocabulary, stable_diffusion_1, stable_diffusion_2, stable_diffusion_xl
from concepts_cli.models.single_file import FIRST, INPUT, LARGE, SECOND, layout_folder
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.models.stable_diffusion_xl import StableDiffusionXL
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from tests.models.one_file import save_one_file
from tests.models.tiny_xl import build_xl


@pytest.fixture(params=["sd", "xl"])
def both(request, tiny_folder, tmp_path):
    """A model as a folder, and in one file with its configuration beside it."""
    if request.param == "sd":
        from diffusers import StableDiffusionPipeline

        folder, pipeline = tiny_folder, StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    else:
        folder = tmp_path / "folder"
        pipeline = build_xl(folder)
    file = save_one_file(pipeline, tmp_path / "one.safetensors")
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folder, tmp_path / "one", ignore=weights)
    return folder, file


def test_one_file_is_the_same_model_as_the_folder(both):
    folder, file = map(str, both)
    expected, found = load_model(folder, device="cpu"), load_model(file, device="cpu")
    assert type(found) is type(expected) and check_model(file) is type(expected) is family_of(file)
    latents, time = torch.randn(2, *found.latent_shape()), torch.tensor([10, 900])
    with torch.no_grad():
        scores = [model.predict(latents, time, model.encode_prompts(["a cat", ""])) for model in (found, expected)]
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(found.decode(latents), expected.decode(latents))
    assert found.fingerprint == expected.fingerprint
    check_words(file, ["cat"])
    with pytest.raises(UcdError, match="'spaceship' is 8 tokens"):
        check_words(file, ["spaceship"])


def test_it_is_trained_like_any_other(both, recipe_file, workplace):
    _, file = both
    recipe = load_recipe(recipe_file, [f"model={file.name}", "train.max_steps=1"])
    assert plan(recipe, device="cpu").steps == 1
    run = train(recipe, device="cpu", out=Output(quiet=True))
    assert run.recipe.model == str(file) and run.load_model("cpu").max_tokens == 16


def test_a_cut_file_is_refused_before_it_is_loaded(both):
    _, file = both
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UcdError, match="is damaged or incomplete"):
        check_model(str(file))


# ---- the published configurations

SIZES = {  # of the published models, in parameters
    "1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "xl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.mark.parametrize("family", SIZES)
def test_the_configurations_are_those_of_the_published_models(family):
    import diffusers
    import transformers

    build = {"1": stable_diffusion_1, "2": stable_diffusion_2, "xl": stable_diffusion_xl}[family]
    layout = build({"prediction_type": "epsilon"})
    with torch.device("meta"):
        for part, size in SIZES[family].items():
            library, name = layout["model_index.json"][part]
            config = layout[f"{part}/config.json"]
            if library == "diffusers":
                network = getattr(diffusers, name).from_config(config)
            else:
                network = getattr(transformers, name)(transformers.CLIPTextConfig(**config))
            assert network.num_parameters() == size


def test_the_vocabulary_is_clips():
    open_clip = pytest.importorskip("open_clip")
    tokenizer, (vocabulary, merges) = open_clip.get_tokenizer("ViT-B-32"), clip_vocabulary()
    assert len(vocabulary) == 49_408 and len(merges) == 48_894
    assert list(vocabulary.values()) == list(tokenizer.encoder.values())
    assert list(vocabulary)[:-2] == list(tokenizer.encoder)[:-2], "the last two have other names there"


def header_only(path, *keys, inputs=4, **said):
    tensors = {key: torch.zeros(1) for key in keys} | {INPUT: torch.zeros(1, inputs, 3, 3)}
    save_file(tensors, path, metadata={key.replace("_", ".", 1): value for key, value in said.items()} or None)
    return path


@pytest.mark.parametrize(
    ("keys", "said", "family", "prediction", "side"),
    [
        ([FIRST], {}, StableDiffusion, "epsilon", 64),
        ([FIRST, "v_pred"], {}, StableDiffusion, "v_prediction", 64),
        ([SECOND], {"modelspec_prediction_type": "epsilon"}, StableDiffusion, "epsilon", 64),
        ([SECOND], {"modelspec_prediction_type": "v"}, StableDiffusion, "v_prediction", 96),
        ([LARGE], {}, StableDiffusionXL, "epsilon", 128),
        ([LARGE, "v_pred", "ztsnr"], {}, StableDiffusionXL, "v_prediction", 128),
    ],
)
def test_a_file_is_known_by_its_tensors(tmp_path, keys, said, family, prediction, side):
    from transformers import AutoTokenizer

    file = header_only(tmp_path / "some.safetensors", *keys, **said)
    assert family_of(str(file)) is family
    folder = layout_folder(file)
    noise = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert noise["prediction_type"] == prediction and ("rescale_betas_zero_snr" in noise) == ("ztsnr" in keys)
    assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == side
    for name in family.tokenizers:
        ids = AutoTokenizer.from_pretrained(folder, subfolder=name)("a cat", padding="max_length").input_ids
        assert ids[:4] == [49406, 320, 2368, 49407] and len(ids) == 77
        assert ids[-1] == (0 if name == "tokenizer_2" or SECOND in keys else 49407)
    check_words(str(file), ["cat", "dog"])


@pytest.mark.parametrize(
    ("keys", "inputs", "problem"),
    [
        ([SECOND], 4, "doesn't say whether it predicts noise or velocity"),
        (["double_blocks.0"], 4, "is not Stable Diffusion 1, 2 or XL in one file"),
        ([FIRST], 9, "is made for inpainting"),
    ],
)
def test_what_can_not_be_known_is_refused_in_a_line(tmp_path, keys, inputs, problem):
    with pytest.raises(UcdError, match=problem):
        load_model(str(header_only(tmp_path / "odd.safetensors", *keys, inputs=inputs)), device="cpu")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("weights")
    for name, problem in (("text", "is damaged or incomplete"), ("nowhere", "no such model folder or file")):
        with pytest.raises(UcdError, match=problem):
            load_model(str(tmp_path / f"{name}.safetensors"), device="cpu")
