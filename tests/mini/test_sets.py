"""The sets of images: repeatable, unlabelled, with their answers kept apart; and what ships is what the code draws."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concepts_cli.mini.corpus import SETS, STYLES
from concepts_cli.mini.sets import NAMES, draw_set, main, write_set

DATA = Path(__file__).parents[2] / "recipes" / "data"
SHIPPED = {"quickstart": "s1", **{f"mini-{name}": name for name in NAMES if name != "s1"}}


@pytest.mark.parametrize("name", SETS)
def test_five_of_each_class_in_no_order(name, tmp_path):
    paths = write_set(name, tmp_path, seed=1)
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert [path.name for path in paths] == list(classes)
    labels = [label for (label,) in classes.values()]
    assert Counter(labels) == dict.fromkeys(SETS[name], 5)
    assert labels != sorted(labels)
    assert not list((tmp_path / "images").glob("*.json"))  # nothing beside the pictures tells
    assert {Image.open(path).size for path in paths} == {(64, 64)}


def test_scenes_mix_objects_and_the_time_of_day():
    drawn = draw_set("scenes")
    assert all(len(labels) == 3 for _, labels in drawn)
    times = Counter(labels[-1] for _, labels in drawn)
    assert min(times["day"], times["night"]) >= 12


def test_styles_have_the_filter_first():
    assert Counter(labels[0] for _, labels in draw_set("styles")) == dict.fromkeys(STYLES, 5)


def test_unknown_set():
    with pytest.raises(ValueError, match="s5"):
        draw_set("s5")


def test_command(tmp_path, capsys):
    main(["s4", str(tmp_path), "--images-per-class", "1"])
    assert len(capsys.readouterr().out.split()) == 5


@pytest.mark.parametrize("folder", SHIPPED)
def test_shipped_sets_are_what_is_drawn(folder, tmp_path):
    for path in write_set(SHIPPED[folder], tmp_path):
        shipped, drawn = (np.asarray(Image.open(p)) for p in (DATA / folder / "images" / path.name, path))
        np.testing.assert_allclose(shipped.astype(int), drawn, atol=2)  # resizing may round otherwise elsewhere
    assert json.loads((DATA / folder / "classes.json").read_text()) == json.loads(
        (tmp_path / "classes.json").read_text()
    )


@pytest.mark.parametrize("folder", [folder for folder, name in SHIPPED.items() if name in SETS])
def test_held_out_sets_are_drawn_alike_and_are_others(folder, tmp_path):
    held_out = DATA / folder / "held-out"
    paths = write_set(SHIPPED[folder], tmp_path, images_per_class=10, seed=1)
    for path in paths:
        shipped, drawn = (np.asarray(Image.open(p)) for p in (held_out / "images" / path.name, path))
        np.testing.assert_allclose(shipped.astype(int), drawn, atol=2)
    classes = json.loads((held_out / "classes.json").read_text())
    assert classes == json.loads((tmp_path / "classes.json").read_text())
    assert Counter(label for (label,) in classes.values()) == dict.fromkeys(SETS[SHIPPED[folder]], 10)
    trained = {path.read_bytes() for path in (DATA / folder / "images").iterdir()}
    assert not trained & {path.read_bytes() for path in (held_out / "images").iterdir()}
