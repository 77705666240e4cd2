"""Concepts after the text encoder: what they do to a prompt, and that the encoder is not needed once it has read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import concepts_cli as interface
from concepts_cli.cli import app
from concepts_cli.commands.export import export
from concepts_cli.commands.import_concepts import import_concepts
from concepts_cli.commands.train import Trainer, train
from concepts_cli.core.concepts import initial_embeddings
from concepts_cli.core.draws import seeded
from concepts_cli.core.heat_maps import Subject, tokens_of
from concepts_cli.models import load_model
from concepts_cli.models.embeddings import vectors_of
from concepts_cli.models.latent_diffusion import LatentDiffusion
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from tests.models.tiny_xl import build_xl

OUT = Output(quiet=True)


def recipe_of(recipe_file, *overrides):
    return load_recipe(recipe_file, ["concepts.where=output", "concepts.property=null", *overrides])


def trained(recipe_file, *overrides, **options):
    return train(recipe_of(recipe_file, *overrides), device="cpu", out=OUT, **options)


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_words_states_are_its_vectors_and_all_others_those_of_a_blank(model, vectors):
    ours, blank = (load_model(str(model), device="cpu") for _ in range(2))
    tables = {name: torch.randn(2, vectors, table.shape[1]) for name, table in ours.tables.items()}
    ours.set_concepts(["<t1>", "<t2>"], tables, "output")
    blank.set_concepts(["<t1>", "<t2>"], {name: torch.zeros_like(table) for name, table in tables.items()})
    prompt = "a photo of <t2> in red"
    expected = blank.encode_prompts([prompt]).tensors
    expected["hidden_states"][0, ours.positions(prompt, "<t2>")] = torch.cat(list(tables.values()), dim=-1)[1]
    torch.testing.assert_close(ours.encode_prompts([prompt]).tensors, expected)
    plain = [each.encode_prompts(["a cat"]).tensors for each in (ours, blank)]
    torch.testing.assert_close(*plain)


@pytest.mark.parametrize("start", ["table", "images", "initial"])
def test_a_round_of_commands(workplace, recipe_file, model, start, image_folder):
    own = "concepts.initial=[cat, dog]" if start == "initial" else f"concepts.start={start}"
    run = interface.open_run(trained(recipe_file, f"model={model}", own, "train.max_steps=1").path, device="cpu")
    one, other = (run.sample(name, n=1, steps=1)[0] for name in ("t1", "t2"))
    assert one.tobytes() != other.tobytes()
    assert len(run.compose({"t1": 2, "t2": 1}, n=1, steps=1)) == 1
    assert run.encode(str(image_folder / "0.png"), steps=1).shape == (2,)
    assert not (run.path / "embeddings").exists()
    if load_model(str(model), device="cpu").attention:
        assert len(run.heat_maps(concepts="t1", n=1, steps=1)) == 1


def test_the_text_encoder_is_unloaded_and_that_changes_nothing(workplace, recipe_file, model, monkeypatch):
    overrides = [f"model={model}", "concepts.start=images", "train.preview_every=1"]
    trainer = Trainer(recipe_of(recipe_file, *overrides), output=workplace / "kept", device="cpu", out=OUT)
    for text in trainer.training.objective.model.texts.values():
        assert {parameter.device.type for parameter in text.encoder.parameters()} == {"meta"}
    for _ in trainer.steps(lambda: False):
        pass
    assert len(list((workplace / "kept" / "previews").iterdir())) == 4  # one before the first step
    monkeypatch.setattr(LatentDiffusion, "keep_only", lambda *rest: None)
    read = trained(recipe_file, *overrides, output=workplace / "read")
    torch.testing.assert_close(trainer.run.embeddings, read.embeddings, rtol=1e-4, atol=1e-5)


def test_the_image_encoder_is_unloaded_unless_there_are_previews(workplace, recipe_file):
    for every, device in (("null", "meta"), ("2", "cpu")):
        recipe = load_recipe(recipe_file, [f"train.preview_every={every}", f"name=previews-{every}"])
        trainer = Trainer(recipe, device="cpu", out=OUT)
        assert next(trainer.training.objective.model.vae.parameters()).device.type == device
        trainer._release()


def test_a_resumed_training_is_the_uninterrupted_one(workplace, recipe_file):
    whole = trained(recipe_file, output=workplace / "whole")
    trained(recipe_file, "train.max_steps=2", output=workplace / "parts")
    parts = trained(recipe_file, output=workplace / "parts", resume=True)
    torch.testing.assert_close(parts.embeddings, whole.embeddings, rtol=0, atol=0)


def test_vectors_start_among_the_states_of_words(tiny_model):
    def start(**options):
        options = {"words": None, "spread": 1.0, "generator": seeded(0, "start"), "where": "output"} | options
        return initial_embeddings(tiny_model, 2, **options)["text_encoder"]

    states = tiny_model.encode_prompts(["a photo of a cat"]).tensors["hidden_states"][0]
    torch.testing.assert_close(
        start(words=["cat", "dog"])[0], states[tiny_model.positions("a photo of a cat", "cat")][0]
    )
    typical = tiny_model.typical_vectors("output")["text_encoder"]
    assert len(typical) == len(tiny_model.whole_words())
    torch.testing.assert_close(start(spread=0.0), typical.mean(dim=0).expand(2, -1))


def test_a_map_is_of_the_words_own_tokens(tiny_model):
    tiny_model.set_concepts(["<t1>"], {"text_encoder": torch.randn(1, 2, 32)}, "output")
    assert tokens_of(tiny_model, "a <t1>", Subject("<t1>", "a <t1>")) == [2, 3]


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_onetrainers_files_come_back_and_others_are_refused(workplace, recipe_file, tiny_folder, tmp_path, family):
    model = tiny_folder if family == "sd" else tmp_path / "model"
    if family == "xl":
        build_xl(model)
    run = trained(recipe_file, f"model={model}", "concepts.vectors=2", "train.max_steps=1")
    paths = export(run, tool="onetrainer")
    keys = {"text_encoder": "emp_params_out", "clip_l": "clip_l_out", "clip_g": "clip_g_out"}
    expected = {keys[name]: vectors for name, vectors in vectors_of(run.embeddings, 0).items()}
    torch.testing.assert_close(load_file(paths[0]), expected)
    again = import_concepts(paths, model=str(model), name="again")
    assert again.recipe.concepts.where == "output" and again.recipe.concepts.vectors == 2
    torch.testing.assert_close(again.embeddings, run.embeddings, rtol=0, atol=0)
    refused = CliRunner().invoke(app, ["export", "--for", "comfyui", "--run", str(run.path)])
    assert refused.exit_code == 2 and "use --for onetrainer" in refused.stderr


def test_mixed_words_are_refused(workplace, recipe_file, tiny_folder):
    paths = []
    for where in ("input", "output"):
        run = trained(recipe_file, f"concepts.where={where}", f"name={where}", "train.max_steps=1")
        paths += export(run, tool="onetrainer")
    result = CliRunner().invoke(app, ["import", *map(str, paths), "--model", str(tiny_folder)])
    assert result.exit_code == 2 and "some for its output" in result.stderr
    result = CliRunner().invoke(app, ["train", str(recipe_file), "--set", "train.start_from=output", "--json"])
    assert result.exit_code == 2 and "--set concepts.where=output" in result.stderr, result.output
