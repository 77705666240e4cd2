"""`ucd init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.completion import complete_files
from concepts_cli.cli.options import (
    WHAT,
    Device,
    Force,
    Help,
    Json,
    Quiet,
    examples,
    given_path,
    option,
    output_option,
)
from concepts_cli.cli.session import command_output, say_next

EXAMPLES = examples("ucd init photos/", "ucd init photos/ --model mini --output mine.yaml")


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            show_default=False,
            parser=given_path,
            help="Folder of images, or a .csv, .parquet or .tar.",
            autocompletion=complete_files,
        ),
    ],
    model: Annotated[
        str | None,
        option(
            "--model",
            help="mini, a Hugging Face Hub id, or a folder. Default: the one that is at hand and fits the device.",
            panel=WHAT,
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Recipe to write. Default: FOLDER.yaml.")] = None,
    force: Force = False,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Write the recipe that `ucd train FOLDER` would use.

    Prints its path. Each value has its reason beside it.
    """
    with command_output(quiet, json) as out:
        out.loading("looking at the device and the models that are here")
        from concepts_cli.commands.init import init as write

        path = write(folder, model=model, output=output, force=force, device=device, out=out)
        out.result(path)
        out.document({"path": path})
        say_next(out, "change what you like", f"ucd train {path}")
