"""Mixing from Python: watched pictures, mixes that start from an image, and runs made of another's concepts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import concepts_cli as ucd
from concepts_cli.commands import derive
from concepts_cli.recipe import load_recipe
from tests.runs.folder import small_run, write_concepts


@pytest.fixture
def run(tiny_run):
    return ucd.Run(tiny_run.path, device="cpu")


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun", "dpm++"])
def test_the_last_frame_is_the_picture_that_compose_makes(run, scheduler):
    terms, options = {"t1": 3, "a cat": -1}, {"steps": 5, "seed": 4, "scheduler": scheduler}
    frames = list(run.watch(terms, frames=3, **options))
    assert [frame.is_last for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert frames[0].step == 1 and frames[-1].step == frames[-1].steps >= 5
    (made,) = run.compose(terms, n=1, **options)
    assert np.array_equal(frames[-1].picture, made)
    was, now = ({k: v for k, v in picture.info.items() if k != "command"} for picture in (made, frames[-1].picture))
    assert was == now
    assert frames[-1].picture.info["command"].startswith("ucd compose t1=3 'a cat=-1' --num-images 1")


def test_a_frame_on_the_way_is_what_the_model_expects(run):
    """With a model that is sure from the start, all frames but the last are the same: that one keeps a little noise."""
    model = run.model
    clean = torch.full((1, *model.latent_shape()), 0.25)

    def predict(latents, time, conditioning):
        signal, spread = model.noise.levels(time)
        noise = (latents - signal * clean) / spread
        return signal * noise - spread * clean if model.noise.prediction == "v_prediction" else noise

    model.predict = predict
    frames = list(run.watch({"t1": 1}, frames=9, steps=4))
    assert [frame.step for frame in frames] == [1, 2, 3, 4]
    first, *others = (np.asarray(frame.picture, int) for frame in frames[:-1])
    assert all(np.abs(first - other).max() <= 1 for other in others)


def test_a_mix_that_cannot_be_made_is_refused_before_the_first_frame(run):
    with pytest.raises(ucd.UcdError, match="no concept 't9'"):
        run.watch({"t9": 1})
    with pytest.raises(ucd.UcdError, match="nothing to compose"):
        run.watch({})


def test_a_mix_starts_from_a_training_image(run):
    weights = run.weights[2].tolist()
    assert run.terms_like(run.images[2].path) == pytest.approx(dict(zip(run.concepts, weights, strict=True)), abs=1e-4)


def test_runs_beside_each_other_share_a_model(run):
    other = ucd.open_run(run.path, beside=run)
    assert other.model is run.model
    assert ucd.open_run(run.path, device="cpu").model is not run.model


def test_a_precision_that_is_the_devices_own_loads_no_second_model(run):
    settings = replace(run.recipe, sample=replace(run.recipe.sample, precision="fp32"))
    run._folder.begin(settings, run.images)
    again = ucd.open_run(run.path, device="cpu")
    model = again.model
    again.sample("t1", n=1, steps=1)
    again.encode(run.images[0].path, steps=1)
    assert again.model is model and list(again._folder.models.values()) == [model]


def test_a_run_without_a_concept(run):
    fewer = run.drop("t1")
    assert fewer.path.name == "tiny-without-t1" and fewer.concepts == ("t2",)
    torch.testing.assert_close(fewer.weights, run.weights[:, 1:])
    for encoder, table in run.embeddings.items():
        torch.testing.assert_close(fewer.embeddings[encoder], table[1:])
    assert run.concepts == ("t1", "t2") and fewer.model is run.model
    assert load_recipe(fewer.path / "recipe.yaml").concepts.tokens == ("t2",)
    assert len(fewer.sample("t2", n=1)) == 1
    with pytest.raises(ucd.UcdError, match="can't lose all"):
        fewer.drop("t2")
    with pytest.raises(ucd.UcdError, match="no concept 't7'"):
        run.drop("t7")


def test_merged_words_that_mean_the_same_leave_the_score_as_it_is(run):
    for table in run._folder.embeddings.values():
        table[1] = table[0]
    merged = run.merge(["t2", "t1"])
    assert merged.concepts == ("t2",) and merged.path.name == "tiny-merged-t2-t1"
    torch.testing.assert_close(merged.weights[:, 0], run.weights.sum(dim=1))
    (before,), (after,) = run.compose({"t1": 2, "t2": 1}, n=1), merged.compose({"t2": 3}, n=1)
    assert np.abs(np.asarray(before, int) - np.asarray(after, int)).max() <= 1
    with pytest.raises(ucd.UcdError, match="two concepts or more"):
        run.merge(["t1", "t1"])


def test_weights_that_summed_to_one_do_again(run):
    shares = torch.softmax(run.weights, dim=1)
    run.weights.copy_(shares)
    object.__setattr__(run.recipe.weights, "constraint", "softmax")
    torch.testing.assert_close(run.drop("t1").weights, torch.ones(6, 1))


def test_a_mix_as_one_word(run):
    blended = run.blend({"t1": 3, "t2": 1, "t1 ": 3}, "hybrid")
    (table,), (ours,) = run.embeddings.values(), blended.embeddings.values()
    torch.testing.assert_close(ours[0], 0.75 * table[0] + 0.25 * table[1])
    (file,) = (blended.path / "embeddings").iterdir()
    torch.testing.assert_close(load_file(file)["<hybrid>"], ours)
    assert len(blended.sample("hybrid", n=1)) == 1
    for weights, name, message in (({"t1": -1}, "x", "above 0"), ({"t1": 1}, "a b", "can't be the name")):
        with pytest.raises(ucd.UcdError, match=message):
            run.blend(weights, name)
    folder = run.path / "on.yaml"
    folder.write_text(blended.continuing_recipe())
    on = ucd.discover(folder, overrides={"train.max_steps": 1}, device="cpu").finish()
    assert on.concepts == ("hybrid",) and on.recipe.train.start_from == str(blended.path.absolute())


def test_words_of_several_vectors_are_blended_vector_by_vector(tmp_path):
    run = small_run(tmp_path / "run")
    words = torch.arange(16.0).view(2, 2, 4)  # K=2 concepts of V=2 vectors
    write_concepts(run.path, words)
    blended = derive.blend(run, {"t1": 1, "t2": 3}, name="both", output=tmp_path / "both")
    (table,) = blended.embeddings.values()
    torch.testing.assert_close(table, (0.25 * words[0] + 0.75 * words[1])[None])
