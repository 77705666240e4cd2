"""`--help`: grouped, readable at 80 columns, with examples that work, and quick."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import concepts_cli.cli
from concepts_cli.cli import app

COMMANDS = ("train", "sample", "compose", "visualize", "evaluate", "encode", "report")
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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_leaves_room_for_the_text(command):
    text = help_text(command)
    assert max(map(len, text.splitlines())) <= 80
    options = text[text.index("╭─ ", text.index("╭─ Arguments") + 1 if "╭─ Arguments" in text else 0) :]
    assert not re.search(r"<(bool|int|str|list|float|path)|x>=|<=x", options), "a type is spelled out"


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_grouped_in_the_same_order(command):
    panels = re.findall(r"╭─ (.+?) ─", help_text(command))
    order = ["Arguments", "What to make", "What to measure", "How", "Where to write", "Run", "Output"]
    assert panels == [panel for panel in order if panel in panels]
    assert panels[-2:] == ["Run", "Output"]


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


def test_every_option_is_declared_once():
    folder = Path(concepts_cli.cli.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    declared = re.findall(r'(?:option|flag|number)\(\s*"(--[a-z-]+)"', source)
    assert len(declared) > 20 and sorted(set(declared)) == sorted(declared)


def test_the_number_of_images_says_what_is_counted_and_one_default():
    def line(command: str) -> str:
        text = " ".join(help_text(command).replace("│", " ").split())
        return re.search(r"--num-images -n N (.*?) (?:╰|--)", text)[1]

    assert line("sample") == "Number of images per concept or prompt."
    assert "concept" not in line("compose") and line("compose").count("Default") == 1
    assert line("visualize").count("Default") == 1


def test_ucd_alone_shows_the_help():
    assert "train" in CliRunner().invoke(app, []).stdout
