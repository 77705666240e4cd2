"""`ucd report RUN RUN`: several runs on one page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import concepts_cli as ucd
from concepts_cli.cli import app
from concepts_cli.commands.derive import drop, merge
from concepts_cli.commands.report import report
from concepts_cli.metrics.assignment import AssignmentMetric
from concepts_cli.report.comparison import Comparison

WEIGHTS = [[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.95, 0.05], [0.5, 0.5]]


@pytest.fixture
def pair(tiny_run):
    """A run, and the same with its concepts in the other order and other settings."""
    tiny_run.weights = torch.tensor(WEIGHTS)
    other = merge(tiny_run, ["t1", "t2"], output=tiny_run.path.with_name("other"))
    train = replace(tiny_run.recipe.train, learning_rate=0.5)
    other.begin(replace(tiny_run.recipe, name="other", train=train), tiny_run.images)
    tables = {encoder: table.flip(0) for encoder, table in tiny_run.embeddings.items()}
    other.save_concepts(tiny_run.tokens, tables, tiny_run.weights.flip(1))
    return [tiny_run, type(other)(other.path)]


def test_concepts_that_are_strong_in_the_same_images_are_in_one_row(pair):
    rows = Comparison(pair).concepts
    assert [[card and card["name"] for card in row] for row in rows] == [["t1", "t2"], ["t2", "t1"]]
    fewer = drop(pair[0], ["t1"], output=pair[0].path.with_name("fewer"))
    rows = Comparison([fewer, pair[0]]).concepts
    assert [[card and card["name"] for card in row] for row in rows] == [["t2", "t2"], [None, "t1"]]


def test_only_what_differs_is_listed(pair):
    page = Comparison(pair)
    assert {row.title: row.cells for row in page.settings} == {"train.learning_rate": ["0.01", "0.5"]}
    assert page.shared_images == 6 and page.measures == [] and page.charts[0] and page.charts[1] is None


def test_measures_are_beside_each_other_and_the_best_share_is_marked(pair):
    nothing = {"matched_class": None, "best_class": None, "counts": {"cat": 3}}
    for run, accuracy in zip(pair, (0.5, 0.75), strict=True):
        result = {
            "scorer": "weights",
            "images": 6,
            "matched_accuracy": accuracy,
            "ari": accuracy,
            "intervals": {"matched_accuracy": [accuracy - 0.1, accuracy + 0.1]},
            "classes": ["cat"],
            "concepts": {"t1": nothing, "t2": nothing},
        }
        (run.path / "evaluation.json").write_text(json.dumps({"run": run.name, "metrics": {"assignment": result}}))
    ((title, rows),) = Comparison(pair).measures
    assert title == AssignmentMetric.title
    assert [(row.title, row.cells, row.best) for row in rows] == [
        ("matched accuracy", ["50.0% 40.0–60.0", "75.0% 65.0–85.0"], {1}),
        ("ARI", ["0.5000", "0.7500"], set()),
    ]


def test_runs_without_a_common_image_are_compared_all_the_same(pair):
    images = [replace(record, sha256=f"{n:064x}") for n, record in enumerate(pair[1].images)]
    pair[1].begin(pair[1].recipe, images)
    page = Comparison([pair[0], type(pair[1])(pair[1].path)])
    assert page.shared_images == 0 and len(page.concepts) == 4
    assert "no concept is matched" in page.render()


def test_many_runs_fit_into_the_name_of_a_file(pair):
    run, other = pair
    names = []
    for name in ("a" * 200, "b" * 200):
        other.path = other.path.rename(other.path.with_name(name))
        names.append(report(run, [other, other]).name)
    assert len({*names}) == 2 and all(name.startswith("report-with-2-runs-") for name in names)


def test_the_page_by_command_and_by_call(pair):
    result = CliRunner().invoke(app, ["report", "tiny", "other"])
    path = pair[0].path / "report-with-other.html"
    assert result.stdout == f"{path}\n" and "2 runs compared" in path.read_text()
    assert f"ucd report {pair[0].path} {pair[1].path}" in path.read_text()
    again = ucd.open_run("tiny").report("page.html", others=[ucd.open_run("other")])
    assert again.read_text() == path.read_text()
    assert CliRunner().invoke(app, ["report", "--run", "other"]).stdout.strip() == str(pair[1].path / "report.html")
    assert "no run at nowhere" in CliRunner().invoke(app, ["report", "tiny", "nowhere"]).stderr
    pair[0].clear()
    assert not path.exists()
