"""`runs`: every run in ./runs, whatever state it is in."""

from __future__ import annotations

import json
import os

from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.runs import list_runs
from concepts_cli.output import Output
from concepts_cli.runs.run import Run


def test_runs_are_listed_newest_first_with_their_names_and_scores(tiny_run):
    naming = {"concepts": {"t1": {"name": "cat"}, "t2": {}}}
    metrics = {"naming": naming, "assignment": {"matched_accuracy": 0.75}, "clip": {"accuracy": None}, "resnet": {}}
    (tiny_run.path / "evaluation.json").write_text(json.dumps({"metrics": metrics}))
    unfinished = Run(tiny_run.path.with_name("begun"))
    unfinished.path.mkdir()
    unfinished.begin(tiny_run.recipe, tiny_run.images)
    os.utime(unfinished.path / "recipe.yaml", (2e9, 2e9))
    (tiny_run.path.parent / "not-a-run").mkdir()
    begun, tiny = list_runs()
    assert (begun.run, begun.concepts, begun.scores) == ("begun", {}, {})
    assert (tiny.run, tiny.model, tiny.images) == ("tiny", tiny_run.recipe.model, 6)
    assert (tiny.concepts, tiny.scores) == ({"t1": "cat", "t2": None}, {"assignment": 0.75})


def test_a_run_that_cannot_be_read_is_named_and_hides_no_other(tiny_run, capsys):
    for name, file in (("a", "recipe.yaml"), ("b", "images.jsonl"), ("c", "concepts.safetensors")):
        broken = Run(tiny_run.path.with_name(name))
        broken.path.mkdir()
        broken.begin(tiny_run.recipe, tiny_run.images)
        (broken.path / file).write_text("{")
    (found,) = list_runs(out=Output())
    assert found.run == "tiny"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("warning: runs") for line in said)


def test_from_the_command_line(tiny_run):
    result = CliRunner().invoke(app, ["runs"])
    header, row = (line.split("\t") for line in result.stdout.splitlines())
    assert header == ["run", "date", "model", "images", "concepts", "scores"]
    assert (row[0], row[3], row[4]) == ("tiny", "6", "t1, t2")
    (summary,) = json.loads(CliRunner().invoke(app, ["runs", "--json"]).stdout)["runs"]
    assert summary["path"] == str(tiny_run.path)


def test_no_run_is_no_mistake(workplace):
    result = CliRunner().invoke(app, ["runs", "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"runs": []}) and "ucd train" in result.stderr
