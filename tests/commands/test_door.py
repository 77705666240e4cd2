"""Runs from elsewhere: one line, and never a traceback, a wait or a file outside of the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from concepts_cli.commands.report import report
from concepts_cli.interface.run import open_run
from concepts_cli.output import Output
from concepts_cli.runs.run import Run
from tests.commands.mistakes import VERBS, ucd
from tests.runs.folder import small_run

QUIET = Output(quiet=True)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["<../../../x>", "</tmp/ucd-x>", "<\x1b[2J>"])
def test_a_run_whose_concepts_are_paths_makes_nothing_outside(workplace, image_folder, verb, name):
    folder = small_run(workplace / "a" / "b" / "run").path
    table = {"embeddings": torch.zeros(2, 128)}
    save_file(table, folder / "concepts.safetensors", {"tokens": json.dumps(["<t1>", name])})

    def files() -> list[Path]:
        return sorted(path for path in workplace.rglob("*") if "cache" not in path.parts)

    before = files()
    message = ucd(verb, *VERBS[verb], "--run", folder, code=2)
    assert "is damaged" in message and "\x1b" not in message and len(message.splitlines()) == 2
    assert files() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.json"])
def test_a_pipe_in_place_of_a_log_is_refused_by_report(workplace, name):
    run = small_run(workplace / "run")
    os.mkfifo(run.path / name)
    assert f"{name} is damaged: it is not a regular file" in ucd("report", "--run", run.path, code=2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_among_the_pictures_are_gaps_on_the_page(workplace):
    run = small_run(workplace / "run")
    (workplace / "images").mkdir()
    for place in (run.path / "samples" / "t1" / "0.png", run.path / "heatmaps" / "t1" / "0.png"):
        place.parent.mkdir(parents=True)
        os.mkfifo(place)
    os.mkfifo(workplace / "images" / "0.png")  # a training image
    assert "is no longer there" in report(run).read_text()


@pytest.mark.parametrize("place", ["samples", "samples/t1", "checkpoints", "metrics.jsonl", "heatmaps/images/x.png"])
@pytest.mark.parametrize("verb", ["sample", "report", "train"])
def test_a_link_out_of_the_run_is_refused(workplace, recipe_file, verb, place):
    run = small_run(workplace / "run")
    (workplace / "elsewhere").mkdir()
    (run.path / place).parent.mkdir(parents=True, exist_ok=True)
    (run.path / place).symlink_to(workplace / "elsewhere")
    arguments = ["--run", run.path] if verb != "train" else [recipe_file, "--resume", "--output", run.path]
    message = ucd(verb, *arguments, code=2)
    assert "is damaged: it is a link out of the run" in message
    assert list((workplace / "elsewhere").iterdir()) == []


def test_links_inside_of_the_run_are_fine(workplace):
    run = small_run(workplace / "run")
    (run.path / "samples").mkdir()
    (run.path / "samples" / "again").symlink_to(run.path / "samples", target_is_directory=True)
    run.check_links()


METRICS = {
    "a step of 4,000 digits in words": json.dumps({"number": "9" * 4000, "loss": 1}),
    "a huge loss": '{"number": 3, "loss": 1e308}',
    "nested": "[" * 100_000,
    "a number with 5,000 digits": '{"number": ' + "9" * 5000 + ', "loss": 1}',
    "a step in words": '{"number": "three", "loss": 1}',
    "a loss that is not finite": '{"number": 3, "loss": "nan"}',
    "infinity": '{"number": 3, "loss": 1e999}',
    "a list": "[1, 2]",
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("line", METRICS)
def test_a_line_of_metrics_that_cannot_be_read_is_left_out(workplace, line):
    run = small_run(workplace / "run")
    odd = METRICS[line] if isinstance(METRICS[line], bytes) else METRICS[line].encode()
    steps = [json.dumps({"number": n, "loss": 0.5 / n}).encode() for n in (1, 2)]
    (run.path / "metrics.jsonl").write_bytes(b"\n".join([steps[0], odd, steps[1], b'{"number": 3, "lo']))
    assert "0.2500" in report(run).read_text()


@pytest.mark.parametrize(
    "change", [{"numbers": "{"}, {"numbers": "[]"}, {"panels": "[[0, 0, 99999, 99999], [0, 0, 9, 9]]"}, {"panels": "3"}]
)
def test_a_heat_map_with_odd_numbers_is_drawn_again(tiny_run, image_folder, change):
    run = open_run(tiny_run.path, device="cpu")
    options = {"concepts": "t1", "steps": 2, "output": tiny_run.path / "heatmaps"}
    first = run.heat_maps(image_folder / "0.png", **options)
    (path,) = [path for path in (tiny_run.path / "heatmaps").rglob("*.png") if path.name != "sheet.png"]
    info = PngInfo()
    with Image.open(path) as picture:
        for key, value in (picture.text | change).items():
            info.add_itxt(key, value)
        picture.save(path, pnginfo=info)
    again = run.heat_maps(image_folder / "0.png", **options)
    assert again[0].coverage == first[0].coverage


def test_losses_that_can_hardly_be_told_apart_are_drawn(workplace):
    run = small_run(workplace / "run")
    (run.path / "metrics.jsonl").write_text('{"number": 1, "loss": 5e-324}\n{"number": 2, "loss": 5e-324}\n')
    assert "0.0000" in report(run).read_text()


def test_names_and_labels_that_are_no_text(workplace, capsys):
    run = small_run(workplace / "run")
    line = json.dumps({"path": "images/\udcff.png", "sha256": "ab" * 32, "width": 4, "height": 4})
    (run.path / "images.jsonl").write_text(f"{line}\n" * 3)
    assert "\\udcff.png" in report(Run(run.path)).read_text()
    Output().table("", ["class"], [["gey\x1b[31mser \ud800"]])
    assert "\x1b" not in capsys.readouterr().out
