"""Exported concepts, read back as each tool reads them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

import concepts_cli as interface
from concepts_cli.cli import app
from concepts_cli.commands.export import export
from concepts_cli.commands.train import train
from concepts_cli.core.sampling import composed_scores, denoise, guided
from concepts_cli.errors import UcdError
from concepts_cli.models import TOOLS
from concepts_cli.models.embeddings import vectors_of
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from tests.models.tiny_t5 import build_pixart
from tests.models.tiny_xl import build_xl
from tests.models.tiny_z_image import build_z_image

ENCODERS = {"sd": {"": "text_encoder"}, "xl": {"clip_l": "clip_l", "clip_g": "clip_g"}}
BOTH = {"clip_l", "clip_g"}
# Each text encoder's embedding in a file by the tools' own rules, under "" if there is one: AUTOMATIC1111 takes both
# or the only tensor, ComfyUI the text encoder's key or the first tensor.
READERS = {
    "a1111": lambda tensors: tensors if set(tensors) >= BOTH else {"": only(tensors)},
    "kohya": lambda tensors: tensors if "clip_l" in tensors else {"": tensors["emb_params"]},
    "onetrainer": lambda tensors: tensors if "clip_l" in tensors else {"": tensors["emp_params"]},
    "comfyui": lambda tensors: tensors if BOTH & set(tensors) else {"": next(iter(tensors.values()))},
}


def only(tensors):
    (tensor,) = tensors.values()
    return tensor


@pytest.fixture(params=[("sd", 1), ("xl", 1), ("sd", 3), ("xl", 3)], ids=str)
def run(request, workplace, recipe_file, tmp_path):
    family, vectors = request.param
    overrides = ["train.max_steps=1", f"concepts.vectors={vectors}", "concepts.property=null"]
    if family == "xl":
        build_xl(tmp_path / "model")
        overrides.append(f"model={tmp_path / 'model'}")
    run = train(load_recipe(recipe_file, overrides), device="cpu", out=Output(quiet=True))
    run.family = family
    return run


@pytest.mark.parametrize("tool", READERS)
def test_tools_find_each_text_encoders_embedding(run, tool):
    paths = export(run, tool=tool)
    assert [path.name for path in paths] == ["tiny-t1.safetensors", "tiny-t2.safetensors"]
    assert paths[0].parent == run.path / "exports" / tool
    for row, path in enumerate(paths):
        found = READERS[tool](load_file(path))
        assert set(found) == set(ENCODERS[run.family])
        for key, encoder in ENCODERS[run.family].items():
            torch.testing.assert_close(found[key], vectors_of(run.embeddings, row)[encoder])
        with safe_open(path, "pt") as file:
            assert file.metadata()["token"] == f"<t{row + 1}>" and "/" not in file.metadata()["model"]


@torch.no_grad()
def test_diffusers_makes_the_same_picture(run):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(run.recipe.model)
    pipeline.set_progress_bar_config(disable=True)
    for row, path in enumerate(export(run, tool="diffusers")):
        if run.family == "sd":
            pipeline.load_textual_inversion(path)
            continue
        for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = (getattr(pipeline, part + suffix) for part in ("text_encoder", "tokenizer"))
            words = load_file(path)[name]
            pipeline.load_textual_inversion(words, token=f"<t{row + 1}>", text_encoder=encoder, tokenizer=tokenizer)
    if run.family == "xl":
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    model, noise, prompt = run.load_model("cpu"), torch.randn(1, 4, 16, 16), "a photo of a <t2> in <t1>"
    pipeline.scheduler = model.scheduler("ddim")
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = pipeline(prompt, latents=noise.clone(), **options).images
    *_, ours = denoise(model.sampler("ddim"), noise, composed_scores(model, [guided(prompt, 3.0, 0)]), 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_command_and_the_call(tiny_run, workplace):
    def ucd(*arguments: str, status: int = 0):
        result = CliRunner().invoke(app, ["export", *arguments])
        assert result.exit_code == status, result.output
        return result

    made = ucd("--for", "a1111", "-c", "t2", "-o", "words")
    assert made.stdout == "words/tiny-t2.safetensors\n"
    done, following = made.stderr.splitlines()
    assert done == f"concepts of {tiny_run.path}, for a1111"
    assert following == "next: copy them into embeddings/; in a prompt: tiny-t2"
    refused = ucd("--for", "a1111", "-c", "t2", "-o", "words", status=2)
    assert "words/tiny-t2.safetensors exists already" in refused.stderr
    again = ucd("--for", "a1111", "-c", "t1,t2", "-o", "words", "--force", "--json")
    written = [f"words/tiny-t{k}.safetensors" for k in (1, 2)]
    assert json.loads(again.stdout) == {"run": str(tiny_run.path), "files": written}
    assert "did you mean comfyui?" in ucd("--for", "comfy", status=2).stderr
    assert "no concept 't9'" in ucd("--for", "comfyui", "-c", "t9", status=2).stderr
    (path,) = interface.open_run(tiny_run.path).export("kohya", concepts="t1")
    assert set(load_file(path)) == {"emb_params"}


@pytest.mark.parametrize(("build", "key"), [(build_z_image, "qwen3_4b"), (build_pixart, "t5xxl")])
def test_a_family_that_a_tool_does_not_load_is_refused(workplace, recipe_file, tmp_path, build, key):
    build(tmp_path / "model")
    recipe = load_recipe(recipe_file, ["train.max_steps=1", f"model={tmp_path / 'model'}"])
    run = train(recipe, device="cpu", out=Output(quiet=True))
    (first, _) = export(run, tool="comfyui")
    torch.testing.assert_close(load_file(first)[key], run.embeddings["text_encoder"][:1])
    for tool in set(TOOLS) - {"comfyui"}:
        with pytest.raises(UcdError, match=f"{tool} doesn't load words for model") as caught:
            export(run, tool=tool)
        assert caught.value.hint == "use --for comfyui"
