"""Overlays of a run's concepts, in pictures that are made and in real ones, on the tiny model."""

import inspect
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.cli.visualize import visualize as visualize_command
from concepts_cli.commands.compose import compose
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import heat_map_settings, visualize
from concepts_cli.core.attention import normalise
from concepts_cli.core.sampling import seeded_noise
from concepts_cli.errors import UcdError
from concepts_cli.models.interface import EVERYTHING, Selection
from concepts_cli.models.unet_attention import record_attention
from concepts_cli.output import Output
from concepts_cli.pictures import overlays
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.pictures.plan import PicturePlan
from concepts_cli.recipe import SampleSettings

OUT = Output(quiet=True)
ATTENTION, DAAM = MapSettings(kind="attention"), MapSettings(kind="daam")


def draw(run, **options):
    settings = replace(run.recipe.sample, **options.pop("settings", {}))
    made, failed = visualize(run, settings=settings, device="cpu", out=OUT, **options)
    assert failed == 0
    return made


@pytest.fixture
def drawn(monkeypatch):
    """(picture, heat) of every overlay."""
    seen = []
    page = Image.new("RGB", (8, 8)), [(0, 0, 4, 8), (4, 0, 8, 8)]
    monkeypatch.setattr(overlays, "overlay", lambda picture, heat, **words: seen.append((picture, heat)) or page)
    return seen


# ---- pictures that are made


def test_an_overlay_for_every_image_of_every_concept(tiny_run):
    made = draw(tiny_run)
    names = [str(Path(heat.path).relative_to(tiny_run.path)) for heat in made]
    assert names == [f"heatmaps/t{k}/0000{n}.png" for k in (1, 2) for n in (0, 1)]
    assert [(heat.concept, heat.seed) for heat in made] == [("t1", 0), ("t1", 1), ("t2", 0), ("t2", 1)]
    for heat in made:
        assert 0 <= heat.mean <= heat.peak <= 1 and 0 <= heat.coverage <= 1
        assert all(0 < place < 1 for place in heat.center)
        with Image.open(heat.path) as page:
            assert page.width > 512 and page.text["prompt"] == heat.prompt == f"a photo of a <{heat.concept}>"


def test_the_pictures_are_those_that_sample_makes_and_maps_are_each_pictures_own(tiny_run, drawn):
    settings = {"num_images": 3}
    draw(tiny_run, concepts=["t2"], settings=settings)
    sampled = sample(
        tiny_run, concepts=["t2"], settings=replace(tiny_run.recipe.sample, **settings), device="cpu", out=OUT
    )
    for (picture, _), made in zip(drawn, sampled, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.open(made.path)))
    alone = list(drawn)
    drawn.clear()
    draw(tiny_run, concepts=["t2"], settings=settings | {"batch_size": 1}, output=tiny_run.path / "again")
    for (_, heat), (_, again) in zip(alone, drawn, strict=True):
        assert heat.shape == (16, 16) and 0 <= heat.min() < heat.max() <= 1
        np.testing.assert_allclose(heat, again, rtol=0, atol=5e-3)


def conditional_map(run, prompt, seed=0, selection=EVERYTHING):
    """Attention to every token (T, H, W), of a UNet call of the conditional rows alone, one step long."""
    model = run.load_model("cpu")
    scheduler = model.scheduler("ddim")
    scheduler.set_timesteps(1)
    with record_attention(model.unet, selection=selection) as recorder, torch.no_grad():
        noise = seeded_noise(model, [torch.Generator().manual_seed(seed)])
        model.predict(noise, scheduler.timesteps[0], model.encode_prompts([prompt]))
    return recorder.maps()[0], model


def test_attention_is_of_the_concepts_word_and_what_follows_it(tiny_run, drawn):
    draw(tiny_run, concepts=["t1"], maps=ATTENTION, settings={"num_images": 1, "steps": 1})
    maps, model = conditional_map(tiny_run, "a photo of a <t1>")
    position = model.tokenizer.encode("a photo of a <t1>").index(model.tokenizer.convert_tokens_to_ids("<t1>"))
    np.testing.assert_allclose(drawn[0][1], normalise(maps[position:].mean(0)), rtol=0, atol=1e-3)


def test_words_of_a_prompt_have_maps_of_their_own(tiny_run, drawn):
    prompt = "a <t1> in the style of a <t2>"
    made = draw(tiny_run, prompt=prompt, maps=ATTENTION, settings={"num_images": 1, "steps": 1})
    assert [Path(heat.path).name for heat in made] == ["00000-t1.png", "00000-t2.png"]
    maps, model = conditional_map(tiny_run, prompt)
    for (_, heat), word in zip(drawn, ("<t1>", "<t2>"), strict=True):
        (place,) = model.positions(prompt, word)
        np.testing.assert_allclose(heat, normalise(maps[place]), rtol=0, atol=1e-3)
    (heat,) = draw(tiny_run, prompt=prompt, words=["style"], settings={"num_images": 1, "steps": 1})
    assert heat.concept == "style"


def test_the_kind_daam_is_of_the_word_alone_in_the_layers_of_daam(tiny_run, drawn):
    draw(tiny_run, concepts=["t1"], maps=DAAM, settings={"num_images": 1, "steps": 1})
    prompt = "a photo of a <t1>"
    maps, model = conditional_map(tiny_run, prompt, selection=Selection(daam=True))
    everything, _ = conditional_map(tiny_run, prompt)
    (place,) = model.positions(prompt, "<t1>")
    np.testing.assert_allclose(drawn[0][1], normalise(maps[place]), rtol=0, atol=1e-3)
    assert np.abs(drawn[0][1] - normalise(everything[place]).numpy()).max() > 1e-2


def test_the_kind_daam_maps_words_terms_and_a_selection(tiny_run, drawn):
    settings = {"num_images": 1, "steps": 1}
    draw(tiny_run, prompt="a <t1> in the style", words=["style"], maps=DAAM, settings=settings)
    draw(tiny_run, terms=["t1=4", "a cat=2"], maps=DAAM, settings=settings)
    narrow = replace(DAAM, selection=Selection(resolutions=(8,), heads=(0, 1)))
    draw(tiny_run, concepts=["t1"], maps=narrow, settings=settings)
    subjects = [("a <t1> in the style", "style"), ("a photo of a <t1>", "<t1>"), ("a cat", "a cat")]
    for (_, heat), (prompt, word) in zip(drawn, subjects, strict=False):
        maps, model = conditional_map(tiny_run, prompt, selection=Selection(daam=True))
        expected = normalise(maps[model.positions(prompt, word)].mean(0))
        np.testing.assert_allclose(heat, expected, rtol=0, atol=1e-3)
    maps, model = conditional_map(tiny_run, "a photo of a <t1>", selection=narrow.attention)
    (place,) = model.positions("a photo of a <t1>", "<t1>")
    np.testing.assert_allclose(drawn[-1][1], normalise(maps[place]), rtol=0, atol=1e-3)
    with pytest.raises(UcdError, match="no layer of the model") as caught:
        draw(tiny_run, concepts=["t2"], maps=replace(DAAM, selection=Selection(layers=("mid_block",))))
    assert "down_blocks.1.attentions.0 (8)" in caught.value.hint and "daam leaves out the others" in caught.value.hint


def test_terms_of_a_composition_are_each_recorded(tiny_run, drawn):
    terms, prompts = ["t1=4", "in the style of a cat=-1"], ["a photo of a <t1>", "in the style of a cat"]
    settings = {"num_images": 1, "steps": 1}
    made = draw(tiny_run, terms=terms, maps=ATTENTION, settings=settings)
    assert [heat.prompt for heat in made] == prompts
    for (_, heat), prompt in zip(drawn, prompts, strict=True):
        maps, model = conditional_map(tiny_run, prompt)
        first = model.positions(prompt, "<t1>" if "<t1>" in prompt else prompt)[0]
        np.testing.assert_allclose(heat, normalise(maps[first:].mean(0)), rtol=0, atol=1e-3)
    (composed,) = compose(
        tiny_run,
        terms,
        settings=replace(tiny_run.recipe.sample, **settings),
        device="cpu",
        out=OUT,
    )
    np.testing.assert_array_equal(np.asarray(drawn[0][0]), np.asarray(Image.open(composed.path)))


def test_a_concept_may_be_in_several_terms(tiny_run):
    made = draw(tiny_run, terms=["t1@left=4", "t1@right=-1", "t1", "a <t1>"], settings={"num_images": 1, "steps": 1})
    assert [heat.concept for heat in made] == ["t1-left", "t1-right", "t1", "t1-2"]


def test_overlays_are_made_once(tiny_run, monkeypatch):
    settings = {"num_images": 1}
    first = draw(tiny_run, concepts=["t1"], settings=settings)
    with monkeypatch.context() as patch:
        patch.setattr(PicturePlan, "load_models", None)  # not called again
        assert draw(tiny_run, concepts=["<t1>"], settings=settings) == first
        kinds = [{"settings": settings, "maps": maps} for maps in (ATTENTION, DAAM)]
    others = [draw(tiny_run, concepts=["t1"], **o) for o in ({"settings": settings | {"steps": 1}}, *kinds)]
    assert draw(tiny_run, concepts=["t1"], settings=settings) == first
    places = [Path(made.path).relative_to(tiny_run.path / "heatmaps").parts[0] for (made,) in others]
    assert places == ["steps=1", "map=attention", "map=daam"]
    (again,) = draw(tiny_run, concepts=["t1"], settings=settings, maps=MapSettings(save_maps=True, save_masks=True))
    assert np.load(again.map).shape == (16, 16)
    with Image.open(again.mask) as mask:
        assert mask.size == (32, 32) and set(np.unique(mask)) <= {0, 255}
    assert np.load(again.map).max() == pytest.approx(again.peak)


def test_a_selection_that_leaves_nothing_is_said_before_a_picture_is_finished(tiny_run):
    for selection in (Selection(layers=("nowhere",)), Selection(resolutions=(64,)), Selection(heads=(99,))):
        with pytest.raises(UcdError, match="no layer of the model") as caught:
            draw(tiny_run, concepts=["t1"], maps=MapSettings(selection=selection))
        assert "down_blocks.1.attentions.0 (8)" in caught.value.hint
    with pytest.raises(UcdError, match="no step has a timestep"):
        draw(tiny_run, concepts=["t1"], maps=MapSettings(selection=Selection(timesteps=(2000, 3000))))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"concepts": ["t9"]}, "no concept 't9'"),
        ({"concepts": ["other:t1"]}, "a concept of another run"),
        ({"prompt": "a <t1>", "words": ["snow"]}, "'snow' is not in the prompt 'a <t1>'"),
        ({"prompt": "a <t7> here"}, "no concept '(<t7>|t7)'"),
        ({"prompt": "a cat"}, "names no concept"),
        ({"words": ["cat"]}, "words need a prompt"),
        ({"prompt": "a <t1>", "concepts": ["t1"]}, "exclude each other"),
        ({"training_images": True, "terms": ["a cat"]}, "a composition is generated"),
        ({"terms": ["t1", "twin:t2"]}, "'twin:t2' is a concept of another run"),
        ({"terms": ["t1@left"], "maps": MapSettings(kind="attention", engine="daam")}, "daam can't place terms"),
        ({"maps": MapSettings(kind="attention", engine="daam")}, "daam needs pictures of 512"),
        ({"training_images": True, "maps": MapSettings(kind="attention", engine="daam")}, "not real images"),
    ],
)
def test_what_can_not_be_drawn_is_said(tiny_run, options, problem):
    shutil.copytree(tiny_run.path, tiny_run.path.parent / "twin")
    with pytest.raises(UcdError, match=problem):
        draw(tiny_run, **options)


def test_settings_have_known_values():
    for wrong in ({"kind": "atention"}, {"engine": "dam"}, {"inversion": "dim"}, {"engine": "daam"}):
        with pytest.raises(UcdError):
            MapSettings(**wrong)


def test_without_the_package_daam_says_how_to_install_it(monkeypatch):
    import sys

    from concepts_cli.models.daam import trace

    monkeypatch.setitem(sys.modules, "daam", None)
    with pytest.raises(UcdError) as caught:
        trace(None)
    assert "pip install --no-deps daam" in caught.value.hint


# ---- real images


def test_the_runs_own_images_come_with_their_weights_and_a_sheet(tiny_run):
    *made, sheet = draw(tiny_run, training_images=True, grid=True, settings={"steps": 2})
    assert sheet.path == str(tiny_run.path / "heatmaps" / "sheet.png")
    assert len(made) == 12 and len({heat.path for heat in made}) == 12
    weights = [weight for row in tiny_run.weights.tolist() for weight in row]
    assert [heat.weight for heat in made] == pytest.approx(weights)
    assert all(heat.reconstruction_error > 0 and heat.image and heat.seed is None for heat in made)
    with Image.open(tiny_run.path / "heatmaps" / "sheet.png") as page:
        assert page.width > 3 * 128 and page.height > 6 * 128
    with Image.open(made[0].path) as page:
        assert page.width > 3 * 256  # the image, its reconstruction, the map


def test_a_map_of_an_image_does_not_depend_on_the_others(tiny_run, image_folder):
    options = {"maps": MapSettings(save_maps=True), "settings": {"steps": 2}}
    together = draw(tiny_run, images=[image_folder], **options)
    alone = draw(tiny_run, images=[image_folder / "3.png"], concepts=["t2"], output=tiny_run.path / "alone", **options)
    twin = next(heat for heat in together if heat.image == alone[0].image and heat.concept == "t2")
    np.testing.assert_allclose(np.load(twin.map), np.load(alone[0].map), rtol=0, atol=5e-3)


def daam_of(run, image, output, **given):
    maps, settings = replace(DAAM, save_maps=True), heat_map_settings(run, {"steps": 2} | given, real=True, kind="daam")
    options = {"concepts": ["t1"], "output": run.path / output, "device": "cpu", "out": OUT}
    (made,), failed = visualize(run, images=[image], maps=maps, settings=settings, **options)
    assert not failed
    return np.load(made.map), made


def test_the_kind_daam_shows_the_centre_of_a_real_image(tiny_run, tmp_path, drawn):
    values = np.random.default_rng(0).integers(0, 255, (32, 96, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "wide.png")
    Image.fromarray(values[:, 32:64]).save(tmp_path / "centre.png")
    values[:, :31], values[:, 65:] = 0, 255
    Image.fromarray(values).save(tmp_path / "other.png")
    maps = [daam_of(tiny_run, tmp_path / f"{name}.png", name)[0] for name in ("wide", "centre", "other")]
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(maps[2], maps[1], rtol=0, atol=1e-5)
    for picture, _ in drawn:
        np.testing.assert_array_equal(np.asarray(picture), values[:, 32:64])


def test_the_kind_daam_samples_the_latents_of_a_real_image(tiny_run, image_folder):
    image = image_folder / "0.png"
    first, made = daam_of(tiny_run, image, "first", seed=3)
    again, _ = daam_of(tiny_run, image, "again", seed=3)
    other, _ = daam_of(tiny_run, image, "other", seed=4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with Image.open(made.path) as page:
        assert page.text["map"] == "daam" and page.text["seed"] == "3"
    apart, other_seed = daam_of(tiny_run, image, "first", seed=4)
    np.testing.assert_array_equal(apart, other)
    assert "/seed=4/" in Path(other_seed.path).as_posix()
    with pytest.raises(UcdError, match="^--eta: not used for real images") as caught:
        heat_map_settings(tiny_run, {"eta": 1}, real=True, kind="daam")
    assert caught.value.hint == "they use --steps, --guidance-scale, --precision, --batch-size, --seed"


def test_the_command_draws_the_kind_daam(tiny_run, image_folder):
    run = ["--run", str(tiny_run.path), "--device", "cpu", "-q", "--json"]
    options = ["--map", "daam", "--grid", "--maps", "--seed", "5", *run]
    result = CliRunner().invoke(app, ["visualize", str(image_folder / "0.png"), "--steps", "2", *options])
    assert result.exit_code == 0, result.stderr
    assert [heat["concept"] for heat in json.loads(result.stdout)["maps"]] == ["t1", "t2"]
    assert (tiny_run.path / "heatmaps" / "sheet.png").is_file()
    result = CliRunner().invoke(app, ["visualize", "-c", "t1", "-n", "1", "--head", "0", *options])
    assert result.exit_code == 0, result.stderr
    (heat,) = json.loads(result.stdout)["maps"]
    assert heat["seed"] == 5 and np.load(heat["map"]).shape == (16, 16)
    result = CliRunner().invoke(app, ["visualize", "--map", "daam", "--engine", "daam", *run])
    assert result.exit_code == 2 and "the engine daam has only attention maps" in result.stderr


def save_odd_images(folder):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8))
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (40, 30), dtype=np.uint16)).save(folder / "sixteen.png")
    photo.convert("P").save(folder / "palette.png", transparency=0)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (20_000, 9), "blue").save(folder / "wide.png")
    return sorted(folder.iterdir())


def test_odd_images_are_read_as_people_see_them(tiny_run, tmp_path):
    (folder := tmp_path / "odd").mkdir()
    images = save_odd_images(folder)
    made = draw(tiny_run, images=images, concepts=["t1"], settings={"steps": 1}, maps=MapSettings(save_masks=True))
    sizes = {}
    for heat in made:
        with Image.open(heat.mask) as mask:
            sizes[Path(heat.image).name] = mask.size
    assert sizes == {
        "cmyk.jpg": (30, 40),
        "palette.png": (30, 40),
        "sixteen.png": (30, 40),
        "turned.jpg": (40, 30),
        "wide.png": (20_000, 9),
    }


def test_bad_images_are_a_line_each_and_the_others_are_done(tiny_run, tmp_path, image_folder):
    (folder := tmp_path / "bad").mkdir()
    good = image_folder / "0.png"
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(good.read_bytes()[:600])
    (folder / "text.jpg").write_text("not an image")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    names = ["empty.png", "cut.png", "text.jpg", "dot.png", "huge.png", "nowhere.png"]
    arguments = ["visualize", *(str(folder / name) for name in names), str(good), "-c", "t1", "--steps", "1"]
    result = CliRunner().invoke(app, [*arguments, "--run", str(tiny_run.path), "--device", "cpu", "-q", "--json"])
    assert result.exit_code == 1
    (heat,) = json.loads(result.stdout)["maps"]
    assert heat["image"] == str(good) and Path(heat["path"]).is_file()
    lines = result.stderr.splitlines()
    assert len(lines) == len(names) and "Traceback" not in result.stderr
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_options_that_real_images_have_no_use_for_are_refused_and_those_of_the_recipe_ignored(tiny_run, image_folder):
    options = {"eta": 0.5, "seed": 3, "corrector_steps": 1, "scheduler": "euler", "negative_prompt": "a <t9>"}
    tiny_run.recipe = replace(tiny_run.recipe, sample=replace(tiny_run.recipe.sample, **options))
    settings = heat_map_settings(tiny_run, {"steps": 1}, real=True)
    visualize(tiny_run, images=[image_folder / "0.png"], settings=settings, device="cpu", out=OUT)
    for name, value in options.items():
        with pytest.raises(UcdError, match=f"^--{name.replace('_', '-')}: not used for real images") as caught:
            heat_map_settings(tiny_run, {name: value, "steps": 1}, real=True)
        assert caught.value.hint == "they use --steps, --guidance-scale, --precision, --batch-size"
    result = CliRunner().invoke(app, ["visualize", "0.png", "--scheduler", "euler", "--run", str(tiny_run.path)])
    assert result.exit_code == 2 and "--scheduler: not used" in result.stderr


def test_the_command_takes_every_setting_of_pictures():
    taken = inspect.signature(visualize_command).parameters
    assert {field.name for field in fields(SampleSettings)} <= set(taken)
