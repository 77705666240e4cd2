"""`ucd train`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.options import Device, Force, Json, Quiet, output_option
from concepts_cli.cli.session import command_output


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one such as quickstart.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides a setting.")] = None,
    output: Annotated[Path | None, output_option("The run folder. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    force: Force = False,
    num_processes: Annotated[
        int, typer.Option(min=1, help="Train in so many processes of this machine, a GPU each.")
    ] = 1,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Discover concepts in the images of a RECIPE. Prints the run folder."""
    with command_output(quiet, json) as out:
        from concepts_cli.processes.environment import is_launched
        from concepts_cli.recipe import load_recipe

        settings = load_recipe(recipe, set_ or [])
        from concepts_cli.commands import train as command

        launching = num_processes > 1 and not is_launched()
        if dry_run or launching:
            planned = command.plan(settings, output=output, resume=resume, force=force, processes=num_processes)
        if dry_run:
            out.table("", ["setting", "value"], list(dataclasses.asdict(planned).items()))
            out.document(planned)
            return
        if launching:
            from concepts_cli.processes.launch import launch

            raise typer.Exit(launch(sys.argv[1:], num_processes))
        run = command.train(settings, output=output, resume=resume, force=force, device=device, out=out)
        out.result(run.path)
        out.document({"run": run.path, "concepts": run.tokens, "images": len(run.images)})
