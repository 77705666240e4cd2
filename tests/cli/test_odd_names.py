"""Files with odd names, through the commands: they work, and nothing in a name steers a terminal or breaks a line."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from concepts_cli.cli import app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names of POSIX file systems")
NAMES = (b"x" * 251 + b".png", b"caf\xe9.png", b"a\nb.png", b"\x1b[31mred.png", b"sheet.png", b"t1.png")


def ucd(*arguments: str):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    assert "\x1b" not in result.stderr
    return result


@pytest.fixture
def odd_folder(tmp_path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    for n, name in enumerate(NAMES):
        Image.new("RGB", (40, 40), (40 * n, 90, 120)).save(Path(folder, os.fsdecode(name)))
    return folder


def test_images_of_odd_names_are_encoded_mapped_and_imitated(tiny_run, odd_folder):
    document = json.loads(ucd("encode", str(odd_folder), "--steps", "1", "--json", "--output", "w.csv").stdout)
    assert sorted(Path(image["path"]).name for image in document["images"]) == sorted(map(os.fsdecode, NAMES))
    with open("w.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + len(NAMES) and any("a\\nb.png" in row[0] for row in rows)
    ucd("encode", str(odd_folder), "--steps", "1")
    mapped = ucd("visualize", str(odd_folder), "--concept", "t1", "--steps", "1", "--grid")
    *maps, sheet = mapped.stdout.splitlines()
    assert len(maps) == len(NAMES) and all(map(os.path.isfile, maps))
    assert sheet == str(tiny_run.path / "heatmaps" / "sheet.png") and os.path.isfile(sheet)
    for name in NAMES[:3]:
        ucd("compose", "--like", str(odd_folder / os.fsdecode(name)), "-n", "1", "--steps", "1")


def test_prompts_may_be_called_like_the_sheets_beside_them(tiny_run):
    made = ucd("sample", "grid.png", "a\n<t1>", "--grid", "-n", "1", "--steps", "1").stdout.splitlines()
    assert made[-1] == str(tiny_run.path / "samples" / "grid.png") and all(map(os.path.isfile, made))
    mapped = ucd("visualize", "--prompt", "sheet.png", "--word", "sheet", "--grid", "-n", "1", "--steps", "1")
    drawn, sheet = mapped.stdout.splitlines()
    assert os.path.isfile(drawn) and sheet == str(tiny_run.path / "heatmaps" / "sheet.png") and os.path.isfile(sheet)
    ucd("compose", "grid.png", "t1", "--grid", "-n", "1", "--steps", "1")
    ucd("compose", "--sweep", "sweep.png=0:1:2", "--steps", "1")


def test_a_training_skips_broken_images_and_names_them(workplace, recipe_file, image_folder):
    (image_folder / "a\nb.png").write_text("no image")
    arguments = ["train", str(recipe_file), "--device", "cpu", "--dry-run", "--json"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "a\\nb.png" in refused.stderr and "data.skip_broken=true" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    skipped = ucd(*arguments, "--set", "data.skip_broken=true")
    assert json.loads(skipped.stdout)["images"] == 6
    assert "skipping 1 of 7 images" in skipped.stderr and "a\\nb.png" in skipped.stderr
