"""There is one way to make a picture: under a heat map, in a preview and by `sample` it is the same to the bit."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concepts_cli.commands import train as train_command
from concepts_cli.commands.compose import compose
from concepts_cli.commands.sample import sample
from concepts_cli.commands.train import train
from concepts_cli.commands.visualize import IMAGE_SETTINGS, visualize
from concepts_cli.output import Output
from concepts_cli.pictures import overlays
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import SampleSettings, load_recipe
from concepts_cli.runs.files import write_png

OUT = Output(quiet=True)
PLAIN = SampleSettings(num_images=2, steps=3, batch_size=4)
OTHER = {
    "num_images": 1,
    "steps": 4,
    "guidance_scale": 3.0,
    "negative_prompt": "blue",
    "scheduler": "dpm++sde",
    "eta": 0.5,
    "height": 48,
    "width": 24,
    "precision": "bf16",
    "batch_size": 1,
    "seed": 7,
    "corrector_steps": 1,
    "corrector_step_size": 0.2,
}
TOGETHER = {"height": 48, "eta": 0.5, "negative_prompt": "a <t2>", "corrector_steps": 1, "precision": "bf16"}
CASES = [{name: value} for name, value in OTHER.items()] + [TOGETHER]


@pytest.fixture
def under_maps(monkeypatch):
    """The pictures that overlays are drawn on, in order."""
    seen: list[Image.Image] = []
    original = overlays.overlay
    monkeypatch.setattr(
        overlays, "overlay", lambda picture, *rest, **w: seen.append(picture) or original(picture, *rest, **w)
    )
    return seen


def arrays(pictures) -> list[np.ndarray]:
    return [np.asarray(p if isinstance(p, Image.Image) else Image.open(p.path)) for p in pictures]


def case_settings(changed) -> SampleSettings:
    steps = {"corrector_steps": 1} if "corrector_step_size" in changed else {}
    return replace(PLAIN, **steps, **changed)


def test_every_setting_is_tried():
    assert set(OTHER) == {field.name for field in fields(SampleSettings)}


@pytest.mark.parametrize(
    ("changed", "kind"),
    [*((case, "attention") for case in CASES), (TOGETHER, "contrast")],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_the_picture_under_a_map_is_samples(tiny_run, under_maps, changed, kind):
    settings = case_settings(changed)
    visualize(tiny_run, settings=settings, maps=MapSettings(kind=kind), device="cpu", out=OUT)
    sampled = sample(tiny_run, settings=settings, device="cpu", out=OUT)
    for under, picture in zip(arrays(under_maps), arrays(sampled), strict=True):
        np.testing.assert_array_equal(under, picture)
    for overlay, picture in zip(sorted((tiny_run.path / "heatmaps").rglob("*.png")), sampled, strict=True):
        with Image.open(overlay) as page, Image.open(picture.path) as alone:
            said = {key: text for key, text in alone.text.items() if key != "command"}
            assert said.items() <= page.text.items(), "it says of itself what the picture does"


def test_the_picture_under_maps_of_terms_is_composes(tiny_run, under_maps):
    settings = replace(PLAIN, **TOGETHER)
    terms = ["t1=4", "in the style of a cat=-1"]
    visualize(tiny_run, terms=terms, settings=settings, device="cpu", out=OUT)
    composed = compose(tiny_run, terms, settings=settings, device="cpu", out=OUT)
    for under, picture in zip(arrays(under_maps[::2]), arrays(composed), strict=True):
        np.testing.assert_array_equal(under, picture)


@pytest.mark.parametrize("changed", CASES, ids=lambda case: "+".join(case))
def test_a_preview_of_the_last_step_is_samples(workplace, recipe_file, monkeypatch, changed):
    settings = case_settings(changed)
    recipe = load_recipe(recipe_file)
    options = replace(recipe.train, preview_every=3, preview_images=settings.num_images)
    rows = []
    sheet = train_command.contact_sheet
    monkeypatch.setattr(train_command, "contact_sheet", lambda pictures: rows.append(pictures) or sheet(pictures))
    run = train(replace(recipe, train=options, sample=settings), device="cpu", out=OUT)
    assert (run.path / "previews" / "step-000003.png").is_file()
    sampled = sample(run, settings=settings, device="cpu", out=OUT)
    previews = [picture for row in rows[-1].values() for picture in row]
    assert {Path(picture.path).parent.name for picture in sampled} == set(rows[-1])
    for preview, picture in zip(arrays(previews), arrays(sampled), strict=True):
        np.testing.assert_array_equal(preview, picture)


@pytest.mark.parametrize("name", [*OTHER])
def test_every_setting_matters(tiny_run, workplace, name):
    """So that two ways which both forget it don't agree: what it changes is seen in the pictures."""
    if name in ("num_images", "batch_size"):
        return
    base = case_settings({"corrector_step_size": 0.1}) if name == "corrector_step_size" else PLAIN
    plain, other = (
        arrays(sample(tiny_run, settings=settings, output=workplace / folder, device="cpu", out=OUT))
        for folder, settings in (("plain", base), ("other", replace(base, **{name: OTHER[name]})))
    )
    assert plain[0].shape != other[0].shape or not np.array_equal(plain[0], other[0])


@pytest.mark.parametrize("name", [*OTHER])
def test_another_setting_has_another_folder(tiny_run, name):
    base = case_settings({"corrector_step_size": 0.1}) if name == "corrector_step_size" else PLAIN
    made = sample(tiny_run, concepts=["t1"], settings=base, device="cpu", out=OUT)
    again = {"concepts": ["t1"], "settings": replace(base, **{name: OTHER[name]}), "device": "cpu", "out": OUT}
    if name in ("num_images", "batch_size"):
        assert sample(tiny_run, **again) == made[: again["settings"].num_images]
    else:
        before = Path(made[0].path).read_bytes()
        other = sample(tiny_run, **again)
        assert f"{name.removesuffix('_steps').removesuffix('_step_size')}=" in Path(other[0].path).parents[1].name
        assert Path(made[0].path).read_bytes() == before


def test_the_precision_that_the_device_chooses_is_the_same_by_name(tiny_run):
    made = sample(tiny_run, settings=PLAIN, device="cpu", out=OUT)
    assert sample(tiny_run, settings=replace(PLAIN, precision="fp32"), device="cpu", out=OUT) == made


def test_a_picture_that_does_not_say_its_precision_is_accepted(tiny_run):
    """Nor its command: earlier versions wrote neither."""
    settings = replace(PLAIN, num_images=1, precision="bf16")
    (made,) = sample(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=OUT)
    with Image.open(made.path) as picture:
        earlier = {key: text for key, text in picture.text.items() if key not in ("precision", "command")}
        write_png(Path(made.path), picture.copy(), earlier)
    sample(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=OUT)
    with Image.open(made.path) as picture:
        assert picture.text == earlier


@pytest.fixture
def real_overlay(tiny_run, image_folder):
    """The metadata of the overlay of a real image made with these settings, in one folder for all."""

    def draw(settings):
        images = [image_folder / "0.png"]
        made, _ = visualize(tiny_run, images=images, concepts=["t1"], settings=settings, device="cpu", out=OUT)
        with Image.open(made[0].path) as page:
            return {"path": made[0].path, **page.text}

    return draw


def test_an_overlay_of_a_real_image_claims_only_the_settings_that_it_used(real_overlay):
    unused = {name: value for name, value in OTHER.items() if name not in IMAGE_SETTINGS}
    everything = real_overlay(replace(PLAIN, **unused))
    assert not everything.keys() & {*unused, "corrector"}
    assert not [name for name in unused if f"--{name.replace('_', '-')}" in everything["command"]]
    for name, value in unused.items():
        assert real_overlay(replace(PLAIN, **{name: value})) == everything, name


@pytest.mark.parametrize("name", IMAGE_SETTINGS)
def test_the_settings_that_an_overlay_of_a_real_image_used_are_compared(real_overlay, name):
    first = real_overlay(PLAIN)
    changed = replace(PLAIN, **{name: OTHER[name]})
    if name == "batch_size":
        assert real_overlay(changed) == first
    else:
        other = real_overlay(changed)
        assert f"/{name}=" in Path(other["path"]).as_posix() and f"--{name.replace('_', '-')}" in other["command"]
