"""The commands of `ucd` under one roof. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from concepts_cli.cli.compose import compose
from concepts_cli.cli.encode import encode
from concepts_cli.cli.evaluate import evaluate
from concepts_cli.cli.report import report
from concepts_cli.cli.sample import sample
from concepts_cli.cli.train import train
from concepts_cli.cli.visualize import visualize
from concepts_cli.version import __version__

app = typer.Typer(
    name="ucd",
    help="Discover the visual concepts in a folder of unlabelled images, and use them.",
    epilog="Start with: ucd train quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"ucd {__version__}")
        raise typer.Exit()


for command in (train, sample, compose, visualize, evaluate, encode, report):
    app.command()(command)


def main() -> None:
    """Run `ucd`; what the `ucd` script and `python -m concepts_cli` call."""
    app(prog_name="ucd")
