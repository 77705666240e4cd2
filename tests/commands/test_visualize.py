"""Overlays of a run's concepts on the tiny model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concepts_cli.commands import visualize as module
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import visualize
from concepts_cli.core.attention import normalise
from concepts_cli.errors import UcdError
from concepts_cli.output import Output

OUT = Output(quiet=True)


def test_an_overlay_for_every_image_of_every_concept(tiny_run):
    made = visualize(tiny_run, settings=tiny_run.recipe.sample, device="cpu", out=OUT)
    names = [str(Path(heat.path).relative_to(tiny_run.path)) for heat in made]
    assert names == [f"heatmaps/t{k}/0000{n}.png" for k in (1, 2) for n in (0, 1)]
    assert [(heat.concept, heat.seed) for heat in made] == [("t1", 0), ("t1", 1), ("t2", 0), ("t2", 1)]
    for heat in made:
        with Image.open(heat.path) as page:
            assert page.width > 512 and page.text["prompt"] == heat.prompt == f"a photo of a <{heat.concept}>"


def test_the_pictures_are_those_that_sample_makes_and_maps_are_each_pictures_own(tiny_run, monkeypatch):
    drawn, page = [], Image.new("RGB", (8, 8))
    monkeypatch.setattr(module, "overlay", lambda picture, heat, **words: drawn.append((picture, heat)) or page)
    settings = replace(tiny_run.recipe.sample, num_images=3)
    visualize(tiny_run, concepts=["t2"], settings=settings, device="cpu", out=OUT)
    sampled = sample(tiny_run, concepts=["t2"], settings=settings, device="cpu", out=OUT)
    for (picture, _), made in zip(drawn, sampled, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.open(made.path)))
    alone = list(drawn)
    drawn.clear()
    settings = replace(settings, batch_size=1)
    visualize(tiny_run, concepts=["t2"], settings=settings, output=tiny_run.path / "again", device="cpu", out=OUT)
    for (_, heat), (_, again) in zip(alone, drawn, strict=True):
        assert heat.shape == (16, 16) and heat.min() == 0 and heat.max() == 1
        torch.testing.assert_close(torch.tensor(heat), torch.tensor(again), rtol=0, atol=1e-3)


def test_the_map_is_of_the_concepts_word_and_what_follows_it(tiny_run, monkeypatch):
    """Against a UNet call of the conditional rows alone, one step long."""
    from concepts_cli.core.attention import record_attention
    from concepts_cli.core.sampling import seeded_noise

    drawn, page = [], Image.new("RGB", (8, 8))
    monkeypatch.setattr(module, "overlay", lambda picture, heat, **words: drawn.append(heat) or page)
    settings = replace(tiny_run.recipe.sample, num_images=1, steps=1)
    visualize(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=OUT)
    model = tiny_run.load_model("cpu")
    scheduler = model.scheduler("ddim")
    scheduler.set_timesteps(1)
    with record_attention(model.unet) as recorder, torch.no_grad():
        noise = seeded_noise(model, [torch.Generator().manual_seed(0)])
        model.predict(noise, scheduler.timesteps[0], model.encode_prompts(["a photo of a <t1>"]))
    position = model.tokenizer.encode("a photo of a <t1>").index(model.tokenizer.convert_tokens_to_ids("<t1>"))
    torch.testing.assert_close(
        torch.tensor(drawn[0]), normalise(recorder.maps()[0, position:].mean(0)), rtol=0, atol=1e-3
    )


def test_overlays_are_made_once(tiny_run, monkeypatch):
    settings = replace(tiny_run.recipe.sample, num_images=1)
    first = visualize(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=OUT)
    monkeypatch.setattr(type(tiny_run), "load_model", None)  # not called again
    assert visualize(tiny_run, concepts=["<t1>"], settings=settings, device="cpu", out=OUT) == first
    with pytest.raises(UcdError, match="was made otherwise"):
        visualize(tiny_run, concepts=["t1"], settings=replace(settings, steps=1), device="cpu", out=OUT)


def test_an_unknown_concept_is_refused(tiny_run):
    with pytest.raises(UcdError, match="no concept 't9'"):
        visualize(tiny_run, concepts=["t9"], settings=tiny_run.recipe.sample, device="cpu", out=OUT)
