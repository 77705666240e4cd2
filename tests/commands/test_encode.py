"""`ucd encode`: what it prints and writes."""

import csv
import json

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.encode import encode
from concepts_cli.core.encoding import Encoded
from concepts_cli.errors import UcdError
from concepts_cli.output import Output

OUT = Output(quiet=True)


def test_a_row_an_image(tiny_run, image_folder, capsys):
    document = encode(tiny_run, [image_folder], steps=2, device="cpu", out=Output(quiet=True))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["image", "t1", "t2", "fit"] and len(lines) == 7
    first = document["images"][0]
    fit = f"{100 * first['fit']:.1f}%"
    assert lines[1] == [first["path"], *(f"{weight:.3f}" for weight in first["weights"].values()), fit]
    assert first["fit"] == pytest.approx(1 - first["loss"] / first["loss_without"])
    assert first["strongest"] == max(first["weights"], key=first["weights"].get)
    assert document["concepts"] == ["t1", "t2"] and document["steps"] == 2


def test_many_concepts_are_told_by_the_strongest(tiny_run, image_folder, capsys, monkeypatch):
    monkeypatch.setattr("concepts_cli.commands.encode.COLUMNS", 1)
    document = encode(tiny_run, [image_folder / "0.png"], steps=1, device="cpu", out=Output(quiet=True))
    _, row = capsys.readouterr().out.splitlines()
    weights = document["images"][0]["weights"]
    ranked = sorted(weights, key=weights.get, reverse=True)
    assert row.split("\t")[1] == ", ".join(f"{name} {weights[name]:.3f}" for name in ranked)


def test_images_that_the_concepts_explain_worse_than_nothing_are_named(tiny_run, image_folder, capsys, monkeypatch):
    def worse(model, records, **how):
        for n, record in enumerate(records):
            yield Encoded(record.path, record.sha256, (0.9, 0.1), 0.761 if n else 0.5, 0.725)

    monkeypatch.setattr("concepts_cli.commands.encode.encode_records", worse)
    images = [image_folder / f"{n}.png" for n in range(3)]
    encode(tiny_run, images, device="cpu", out=Output())
    said = capsys.readouterr()
    assert "2 of 3 images, such as 1.png, are explained better without" in said.err
    assert [line.split("\t")[-1] for line in said.out.splitlines()] == ["fit", "31.0%", "-5.0%", "-5.0%"]


def test_every_format_holds_the_same(tiny_run, image_folder, tmp_path):
    images, options = [image_folder / "1.png", image_folder / "4.png"], {"steps": 2, "device": "cpu", "out": OUT}
    document = encode(tiny_run, images, output=tmp_path / "w.json", **options)
    encode(tiny_run, images, output=tmp_path / "w.csv", **options)
    encode(tiny_run, images, output=tmp_path / "w.safetensors", **options)
    wanted = np.array([list(one["weights"].values()) for one in document["images"]])
    assert json.loads((tmp_path / "w.json").read_text()) == document
    with (tmp_path / "w.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[float(row["t1"]), float(row["t2"])] for row in rows] == wanted.tolist()
    assert [row["path"] for row in rows] == [str(path) for path in images]
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        np.testing.assert_allclose(file.get_tensor("weights"), wanted, rtol=1e-6)
        assert json.loads(file.metadata()["paths"]) == [str(path) for path in images]


def test_mistakes_are_told_before_the_work(tiny_run, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tiny_run), "load_model", lambda *_: pytest.fail("loaded the model"))
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "none").mkdir()
    (image_folder / "broken.png").write_text("no image")
    for images, output, problem in [
        (["0.png"], "w.txt", "unknown format"),
        (["0.png"], "there.csv", "exists already"),
        (["0.png"], "there.csv/w.csv", "is not a folder"),
        (["gone.png"], None, "no such folder or image"),
        (["broken.png"], None, "not a readable image: .*broken"),
        ([tmp_path / "none"], None, "no images in"),
    ]:
        with pytest.raises(UcdError, match=problem):
            encode(tiny_run, [image_folder / one for one in images], output=output and tmp_path / output, out=OUT)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_from_the_command_line(tiny_run, image_folder):
    result = CliRunner().invoke(app, ["encode", str(image_folder), "--steps", "1", "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["images"]) == 6
    assert CliRunner().invoke(app, ["encode"]).exit_code == 2
    missing = CliRunner().invoke(app, ["encode", "nowhere.png", "--device", "cpu"])
    assert missing.exit_code == 2 and "nowhere.png" in missing.stderr and "data.images" not in missing.stderr


def test_what_it_writes_carries_the_command(tiny_run, image_folder, tmp_path):
    images = [image_folder / "0.png", image_folder / "1.png"]
    for suffix in (".json", ".csv", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        encode(tiny_run, images, steps=2, seed=1, output=path, device="cpu", out=Output(quiet=True))
        command = f"ucd encode 0.png 1.png --steps 2 --seed 1 --output {path.name} --run {tiny_run.path}"
        if suffix == ".json":
            assert json.loads(path.read_text())["command"] == command
        elif suffix == ".csv":
            assert [row["command"] for row in csv.DictReader(path.open())] == [command] * 2
        else:
            with safe_open(path, "pt") as file:
                assert file.metadata()["command"] == command
