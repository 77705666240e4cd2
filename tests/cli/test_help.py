"""`--help`: grouped, readable at 80 columns, with examples that work, and quick."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import defaultdict

import pytest
import typer.main
from typer.testing import CliRunner

from concepts_cli.cli import app

COMMANDS = (
    *("train", "init", "sample", "compose", "visualize", "evaluate", "encode", "export", "import"),
    *("report", "runs", "rename", "recipes", "doctor", "studio"),
)
HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL")


def help_text(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.stdout


def imported(code: str, environment: dict[str, str] | None = None) -> tuple[str, list[str]]:
    """What `code` prints in a process of its own, and the heavy modules it imports."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n"
    code += f"print('HEAVY', *(module for module in {HEAVY} if module in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    printed, _, modules = result.stdout.rpartition("HEAVY")
    return printed, modules.split()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["visualize", "--help"], []])
def test_help_imports_nothing_heavy(arguments):
    printed, heavy = imported(f"sys.argv = {['ucd', *arguments]}; from concepts_cli.cli import main; main()")
    assert "Usage" in printed and heavy == []


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS)])
def test_help_fits_80_columns_and_spells_out_no_type(command):
    text = help_text(*command)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<(bool|int|str|list|float|path|file|choice)|x>=|<=x", text, re.IGNORECASE)


@pytest.mark.parametrize(("command", "text"), [("train", "hf:user/name[train]"), ("studio", "'concepts-cli[studio]'")])
def test_brackets_are_text_and_no_markup(command, text):
    assert text in " ".join(help_text(command).replace("│", " ").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_grouped_in_the_same_order(command):
    panels = re.findall(r"╭─ (.+?) ─", help_text(command))
    order = ["Arguments", "What to make", "What to measure", "How", "Where to write", "Run", "Output"]
    assert panels == [panel for panel in order if panel in panels]
    assert panels[-1] == "Output"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_commands_that_parse(command):
    group = typer.main.get_command(app)
    lines = help_text(command).rpartition("Examples:")[2].split("\n")
    examples = [shlex.split(line.partition(" | ")[0]) for line in lines if line.strip()]
    assert 2 <= len(examples) <= 3
    for example in examples:
        assert example[:2] == ["ucd", command]
        with group.make_context("ucd", []) as parent:
            group.get_command(parent, command).make_context(command, example[2:], parent=parent)


def test_an_option_is_the_same_in_every_command():
    declared: dict[str, set[str]] = defaultdict(set)
    for command in typer.main.get_command(app).commands.values():
        for option in command.params:
            if option.param_type_name == "option":
                declared[option.opts[0]].add(f"{option.opts} {option.metavar} {option.rich_help_panel}")
    assert len(declared) > 20 and all(len(ways) == 1 for ways in declared.values()), declared


def test_the_number_of_images_says_what_is_counted_and_one_default():
    def line(command: str) -> str:
        text = " ".join(help_text(command).replace("│", " ").split())
        return re.search(r"--num-images -n N (.*?) (?:╰|--)", text)[1]

    assert line("sample") == "Number of images per concept or prompt."
    assert "concept" not in line("compose") and line("compose").count("Default") == 1
    assert line("visualize").count("Default") == 1


def test_the_root_groups_its_options_and_points_to_the_guides():
    text = help_text()
    assert re.findall(r"╭─ (.+?) ─", text) == ["Output", "Shell completion", "Commands"]
    assert "docs/" in text


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS)])
def test_h_is_help(command):
    assert CliRunner().invoke(app, [*command, "-h"]).stdout == CliRunner().invoke(app, [*command, "--help"]).stdout


def test_ucd_alone_shows_the_help():
    assert "train" in CliRunner().invoke(app, []).stdout
