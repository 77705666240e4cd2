"""Concepts of several vectors: each vector is a token of the prompt, everywhere a concept goes."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

import concepts_cli as interface
from concepts_cli.cli import app
from concepts_cli.commands.train import train
from concepts_cli.core.concepts import initial_embeddings
from concepts_cli.core.draws import seeded
from concepts_cli.core.heat_maps import Subject, tokens_of
from concepts_cli.errors import UcdError
from concepts_cli.models import load_model
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe

OUT = Output(quiet=True)


def trained(recipe_file, *overrides, **options):
    return train(
        load_recipe(recipe_file, ["concepts.vectors=3", "concepts.property=null", *overrides]),
        device="cpu",
        out=OUT,
        **options,
    )


def test_a_word_is_its_vectors_in_a_row(model):
    """As three words of one vector each would be."""
    several, single = (load_model(str(model), device="cpu") for _ in range(2))
    tables = {name: torch.randn(2, 3, table.shape[1]) for name, table in several.tables.items()}
    several.set_concepts(["<t1>", "<t2>"], tables)
    names = ["<a>", "<b>", "<c>", "<d>", "<e>", "<f>"]
    single.set_concepts(names, {name: table.flatten(0, 1) for name, table in tables.items()})
    ours, theirs = (
        each.encode_prompts([prompt]).tensors
        for each, prompt in ((several, "a photo of <t2> in <t1>"), (single, "a photo of <d><e><f> in <a><b><c>"))
    )
    torch.testing.assert_close(ours, theirs)
    places = several.positions("a photo of <t2> in <t1>", "<t2>")
    assert len(places) == 3 and places[-1] - places[0] == 2
    several.set_concepts(["<t1>"], {name: table[:1, 0] for name, table in tables.items()})
    assert len(several.positions("a photo of <t1>", "<t1>")) == 1


@pytest.mark.parametrize("start", ["table", "images", "normal"])
def test_a_round_of_commands(workplace, recipe_file, model, start, image_folder):
    overrides = [f"model={model}", f"concepts.start={start}", "concepts.property=null", "train.max_steps=1"]
    run = interface.open_run(trained(recipe_file, *overrides).path, device="cpu")
    assert {table.shape[:2] for table in run.embeddings.values()} == {(2, 3)}
    one, other = (run.sample(name, n=1, steps=1)[0] for name in ("t1", "t2"))
    assert one.tobytes() != other.tobytes()
    assert len(run.compose({"t1": 2, "t2": 1}, n=1, steps=1)) == 1
    assert run.encode(str(image_folder / "0.png"), steps=1).shape == (2,)
    if load_model(str(model), device="cpu").attention:
        assert len(run.heat_maps(concepts="t1", n=1, steps=1)) == 1


def test_a_resumed_training_is_the_uninterrupted_one(workplace, recipe_file):
    whole = trained(recipe_file, output=workplace / "whole")
    trained(recipe_file, "train.max_steps=2", output=workplace / "parts")
    parts = trained(recipe_file, output=workplace / "parts", resume=True)
    torch.testing.assert_close(parts.embeddings, whole.embeddings, rtol=0, atol=0)
    again = trained(recipe_file, f"train.start_from={whole.path}", output=workplace / "again")
    assert not torch.equal(again.embeddings["text_encoder"], whole.embeddings["text_encoder"])


def test_vectors_start_at_a_words_tokens_over_and_over(tiny_model):
    def start(words, vectors=3):
        generator = seeded(0, "start")
        options = {"words": words, "spread": 1.0, "generator": generator, "vectors": vectors}
        return initial_embeddings(tiny_model, 2, **options)["text_encoder"]

    table, pieces = tiny_model.text.table, tiny_model.text.pieces
    (cat,), spelled = pieces("cat"), pieces("ox")
    assert len(spelled) == 2
    torch.testing.assert_close(start(["cat", "ox"]), table[torch.tensor([[cat] * 3, [*spelled, spelled[0]]])])
    assert len(torch.cat(list(start(["cat"]))).unique(dim=0)) == 6  # a word that concepts share is told apart
    with pytest.raises(UcdError, match="'ox' is 2 tokens of this model"):
        start(["cat", "ox"], vectors=1)


def test_a_map_is_of_all_tokens(tiny_model):
    tiny_model.set_concepts(["<t1>"], {"text_encoder": torch.randn(1, 3, 32)})
    assert tokens_of(tiny_model, "a <t1> in red", Subject("<t1>", "a <t1>")) == [2, 3, 4]


def test_mistakes_are_a_line(workplace, recipe_file):
    def mistake(*overrides):
        sets = [part for override in overrides for part in ("--set", override)]
        result = CliRunner().invoke(app, ["train", str(recipe_file), *sets])
        assert result.exit_code == 2 and result.stderr.count("\n") <= 2, result.output
        return result.stderr

    assert "reads 16 tokens" in mistake("concepts.vectors=12")
    assert "expected a whole number from 1 to 64" in mistake("concepts.vectors=65")
    earlier = trained(recipe_file, "concepts.vectors=2").path
    assert "--set concepts.vectors=2" in mistake(f"train.start_from={earlier}", "concepts.vectors=3")
