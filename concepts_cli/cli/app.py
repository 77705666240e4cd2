"""The commands of `ucd`, and how their mistakes are shown. Imports nothing heavy, so that `ucd --help` is quick."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from concepts_cli.cli import (
    compose,
    doctor,
    encode,
    evaluate,
    export,
    import_concepts,
    init,
    recipes,
    rename,
    report,
    runs,
    sample,
    studio,
    train,
    visualize,
)
from concepts_cli.cli.help import Command, Group
from concepts_cli.cli.options import OUTPUT, Help, examples, flag
from concepts_cli.errors import UcdError, shown
from concepts_cli.output import Output, escape
from concepts_cli.processes.streams import flush_streams, open_closed_streams, stream_error
from concepts_cli.processes.team import part
from concepts_cli.version import __version__

START = (
    examples("ucd train quickstart", "ucd sample --concept all --grid", "ucd report")
    + "\n\nEach command: ucd COMMAND --help. Guides: README.md and docs/ of the source."
)

app = typer.Typer(
    name="ucd",
    cls=Group,
    help="Discover the visual concepts in a folder of unlabelled images, and use them.",
    epilog=START,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, flag("--version", help="Print the version and exit.", panel=OUTPUT)] = False,
    help_: Help = False,
) -> None:
    if version:
        print(f"ucd {__version__}")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _register(name: str, command: Callable[..., None], epilog: str) -> None:
    """Add a command; its docstring is its help, each paragraph wrapped to the terminal's width."""
    paragraphs = escape(inspect.cleandoc(command.__doc__ or "")).split("\n\n")
    app.command(name, cls=Command, help="\n\n".join(" ".join(text.split()) for text in paragraphs), epilog=epilog)(
        command
    )


_register("train", train.train, train.EXAMPLES)
_register("init", init.init, init.EXAMPLES)
_register("sample", sample.sample, sample.EXAMPLES)
_register("compose", compose.compose, compose.EXAMPLES)
_register("visualize", visualize.visualize, visualize.EXAMPLES)
_register("evaluate", evaluate.evaluate, evaluate.EXAMPLES)
_register("encode", encode.encode, encode.EXAMPLES)
_register("export", export.export, export.EXAMPLES)
_register("import", import_concepts.import_, import_concepts.EXAMPLES)
_register("studio", studio.studio, studio.EXAMPLES)
_register("report", report.report, report.EXAMPLES)
_register("runs", runs.runs, runs.EXAMPLES)
_register("rename", rename.rename, rename.EXAMPLES)
_register("recipes", recipes.recipes, recipes.EXAMPLES)
_register("doctor", doctor.doctor, doctor.EXAMPLES)


def main() -> None:
    """Run `ucd` and exit with its status."""
    open_closed_streams()
    code = _status()
    part()
    # Else an interrupt during a library's exec(), even if caught, makes Python end itself by that signal.
    exec("")  # nosec B102
    sys.exit(code if flush_streams() else code or 1)


def _status() -> int:
    """Run `ucd`; return its exit status."""
    try:
        code = app(prog_name="ucd", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        mistake = stream_error(error)
        if hasattr(error, "format_message"):
            # Wrong usage, shown like every other mistake: what is wrong, then how to fix it.
            where = getattr(getattr(error, "ctx", None), "command_path", "ucd")
            mistake = UcdError(shown(error.format_message(), 500), f"options and examples: {where} --help")
        if mistake is None:
            raise  # a bug: show its traceback
        Output().error(mistake)
        return mistake.exit_code
    return code if isinstance(code, int) else 0
