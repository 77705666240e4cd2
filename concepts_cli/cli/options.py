"""Every option that commands share, declared once; only its help differs by command. Those of a recipe's `sample`
settings are in `sampling`. Panels group them in `--help`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.cli.completion import complete_concepts, complete_runs
from concepts_cli.errors import shown
from concepts_cli.output import escape
from concepts_cli.recipe.numbers import number_words, parse_number

# The panels of `--help`, in this order.
WHAT, MEASURE, HOW, WHERE, RUN, OUTPUT = "What to make", "What to measure", "How", "Where to write", "Run", "Output"
COMPLETION = "Shell completion"


def option(*flags: str, help: str, panel: str, metavar: str | None = None, **rest: Any) -> Any:
    """A typer option in a panel. `metavar` stands for its value in the help: N, PATH, NAME."""
    return typer.Option(*flags, help=escape(help), metavar=metavar, rich_help_panel=panel, **rest)


def one_of(flag: str, *values: str, help: str, panel: str) -> Any:
    """An option that takes one of `values`, which Tab offers; the command checks it."""
    return option(flag, help=help, panel=panel, metavar="NAME", autocompletion=choices(*values))


def flag(*flags: str, help: str, panel: str, **rest: Any) -> Any:
    """An option that takes no value."""
    return option(*flags, help=help, panel=panel, metavar="", **rest)


def number(
    *flags: str, help: str, panel: str, kind: type = int, metavar: str = "N", at_least: float, at_most: float
) -> Any:
    """An option that takes a number, or several, within limits. Typer's own limits would be drawn as a wide column."""
    parser = number_parser(kind, {"at_least": at_least, "at_most": at_most})
    return option(*flags, help=help, panel=panel, metavar=metavar, parser=parser)


def number_parser(kind: type, rules: Mapping[str, Any]) -> Callable[[Any], Any]:
    """What turns an option's text into a number by the rules that recipes have too."""

    def parse(text: Any) -> Any:
        value = parse_number(kind, str(text), rules)
        if value is None:
            raise typer.BadParameter(f"got {shown(text)}, expected {number_words(kind, rules)}")
        return value

    return parse


def choices(*values: str) -> Callable[[str], list[str]]:
    """Completion for an option that takes one of `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def examples(*commands: str) -> str:
    """The last lines of a command's help."""
    return "\n\n".join(["Examples:", "\n".join(f"  {escape(command)}" for command in commands)])


def given_path(text: str) -> Path:
    """A path from the command line. An empty one, such as that of an unset variable, is not the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("got an empty path")
    return Path(text)


def output_option(help: str) -> Any:
    return option("--output", "-o", help=help, panel=WHERE, metavar="PATH", parser=given_path)


def run_option(help: str) -> Any:
    return option("--run", help=help, panel=RUN, metavar="RUN", autocompletion=complete_runs)


def grid_option(help: str) -> Any:
    return flag("--grid", help=help, panel=WHERE)


def threshold_option(help: str, at_least: float, at_most: float) -> Any:
    return number("--threshold", help=help, panel=HOW, kind=float, metavar="X", at_least=at_least, at_most=at_most)


def _show_help(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        typer.echo(ctx.get_help())
        raise typer.Exit()


Json = Annotated[bool, flag("--json", help="Print one JSON document to stdout.", panel=OUTPUT)]
Quiet = Annotated[bool, flag("--quiet", "-q", help="Print only errors to stderr.", panel=OUTPUT)]
# Typer's own --help would sit alone in a panel above all others.
Help = Annotated[
    bool,
    flag(
        "--help",
        "-h",
        help="Show this message and exit.",
        panel=OUTPUT,
        is_eager=True,
        expose_value=False,
        callback=_show_help,
    ),
]
Device = Annotated[
    str | None,
    option(
        "--device",
        help="cuda, cuda:1, mps or cpu. Default: the fastest available.",
        panel=RUN,
        metavar="NAME",
        autocompletion=choices("cpu", "cuda", "mps"),
    ),
]
RunFolder = Annotated[
    str | None, run_option("Run folder, or its name in runs/. Default: $UCD_RUN, then the newest run.")
]
OutputFolder = Annotated[Path | None, output_option("Folder to write to. Default: a subfolder of the run.")]
Force = Annotated[bool, flag("--force", help="Overwrite existing files.", panel=WHERE)]
Grid = Annotated[bool, grid_option("Also write a contact sheet, grid.png.")]
Concept = Annotated[
    list[str] | None,
    option(
        "--concept",
        "-c",
        help="Concept such as t3, several as t1,t3, or all. Repeatable. Default: all, if nothing else is asked for.",
        panel=WHAT,
        metavar="NAME",
        autocompletion=complete_concepts,
    ),
]
