"""Whatever a command does, a notebook can do: the command line, the command's function and the call match."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import concepts_cli as ucd
from concepts_cli.cli import app
from concepts_cli.cli import compose as cli_compose
from concepts_cli.cli import doctor as cli_doctor
from concepts_cli.cli import encode as cli_encode
from concepts_cli.cli import evaluate as cli_evaluate
from concepts_cli.cli import export as cli_export
from concepts_cli.cli import import_concepts as cli_import
from concepts_cli.cli import init as cli_init
from concepts_cli.cli import recipes as cli_recipes
from concepts_cli.cli import rename as cli_rename
from concepts_cli.cli import report as cli_report
from concepts_cli.cli import runs as cli_runs
from concepts_cli.cli import sample as cli_sample
from concepts_cli.cli import train as cli_train
from concepts_cli.cli import visualize as cli_visualize
from concepts_cli.commands import train as train_command
from concepts_cli.commands.compose import compose
from concepts_cli.commands.doctor import doctor
from concepts_cli.commands.encode import encode
from concepts_cli.commands.evaluate import measure
from concepts_cli.commands.export import export
from concepts_cli.commands.import_concepts import import_concepts
from concepts_cli.commands.init import init
from concepts_cli.commands.recipes import recipes
from concepts_cli.commands.rename import rename
from concepts_cli.commands.report import report
from concepts_cli.commands.runs import list_runs
from concepts_cli.commands.sample import sample
from concepts_cli.commands.visualize import visualize
from concepts_cli.pictures.overlays import MapSettings
from concepts_cli.recipe import SampleSettings

SETTINGS = {field.name for field in dataclasses.fields(SampleSettings)}
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "train": (cli_train.train, train_command.train, ucd.discover),
    "init": (cli_init.init, init, ucd.init),
    "sample": (cli_sample.sample, sample, ucd.Run.sample),
    "compose": (cli_compose.compose, compose, ucd.Run.compose),
    "visualize": (cli_visualize.visualize, visualize, ucd.Run.heat_maps),
    "evaluate": (cli_evaluate.evaluate, measure, ucd.Run.evaluate),
    "encode": (cli_encode.encode, encode, ucd.Run.encode),
    "export": (cli_export.export, export, ucd.Run.export),
    "import": (cli_import.import_, import_concepts, ucd.import_concepts),
    "report": (cli_report.report, report, ucd.Run.report),
    "runs": (cli_runs.runs, list_runs, ucd.list_runs),
    "rename": (cli_rename.rename, rename, ucd.Run.rename),
    "recipes": (cli_recipes.recipes, recipes, ucd.recipes),
    "doctor": (cli_doctor.doctor, doctor, ucd.doctor),
}

# One thing by several names: plural or singular, or where a shorter word reads better in a call.
SAME = {
    "recipe": "source",
    "set_": "overrides",
    "prompts": "what",
    "concept": "concepts",
    "word": "words",
    "term": "terms",
    "sweeps": "sweep",
    "for_": "tool",
    "metric": "metrics",
    "rows": "batch_size",
    "num_images": "n",
    "map_": "kind",
    "layer": "layers",
    "resolution": "resolutions",
    "head": "heads",
    "runs": "others",  # of a report
    "maps": "save_maps",
    "masks": "save_masks",
}
EVERYWHERE = {
    *("run", "self"),  # the run: an option, an argument or the object itself
    *("device", "json", "quiet", "help_"),  # a run is opened on a device; the rest is about a terminal
    *("out", "progress"),  # where a command reports to, and whether a call draws a bar
    "selection",  # its fields are options
    "daam",  # of a selection: `--map daam` sets it
}
# What the command line has and a call has not, and why.
ONLY_COMMAND_LINE = {
    # `discover` raises mistakes before a step; a launcher starts scripts; overrides={"train.preview_every": 100}
    "train": {"dry_run", "num_processes", "preview_every"},
    "sample": {"concepts", "grid"},  # `what` takes concepts too; `Pictures.sheet()`
    "compose": {"grid"},  # `Pictures.sheet()`
    "visualize": {"grid"},  # `HeatMaps.sheet`
}
# What a call has and the command line has not.
ONLY_CALL = {"train": {"count", "model"}}  # --set concepts.count=5 --set model=mini


def names(function: Callable[..., Any]) -> set[str]:
    """Its parameters, with those of its settings one by one."""
    found: set[str] = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "settings" or parameter.kind is parameter.VAR_KEYWORD:
            found |= SETTINGS
        elif "MapSettings" in str(parameter.annotation):
            found |= {field.name for kind in (MapSettings, ucd.Selection) for field in dataclasses.fields(kind)}
        else:
            found.add(parameter.name)
    return {SAME.get(name, name) for name in found} - EVERYWHERE


@pytest.mark.parametrize("command", CASES)
def test_a_call_takes_what_the_command_takes(command):
    by_command_line, by_function, by_call = map(names, CASES[command])
    assert by_command_line - by_call == ONLY_COMMAND_LINE.get(command, set())
    assert by_call - by_command_line == ONLY_CALL.get(command, set())
    assert by_command_line - by_function - {"dry_run", "num_processes", "preview_every", "overrides"} == set()


def test_every_command_has_a_call():
    page = {"studio"}  # a page to play on: all that it does, a Run does
    assert set(CASES) | page == {command.name for command in app.registered_commands}
