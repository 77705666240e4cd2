"""`ucd import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.completion import complete_files
from concepts_cli.cli.options import RUN, WHAT, Force, Help, Json, Quiet, examples, given_path, option, output_option
from concepts_cli.cli.session import command_output, say_next

EXAMPLES = examples(
    "ucd import koala.safetensors --model ./my-model",
    "ucd import published/ --model ./my-model --images photos/",
)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            show_default=False,
            parser=given_path,
            help="Textual-inversion files, or a folder that the published code wrote.",
            autocompletion=complete_files,
        ),
    ],
    images: Annotated[
        list[Path] | None,
        option(
            "--images",
            help="Folder of the training images, for their weights. Repeatable.",
            panel=WHAT,
            metavar="PATH",
            parser=given_path,
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Run folder to write. Default: runs/NAME.")] = None,
    force: Force = False,
    model: Annotated[
        str | None,
        option("--model", help="Model of the words: a Hub id, a folder or file, or mini.", panel=WHAT, metavar="NAME"),
    ] = None,
    name: Annotated[
        str | None, option("--name", help="Name of the run. Default: the file's.", panel=RUN, metavar="NAME")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Make a run of words that were learned elsewhere.

    Prints its path. sample, compose, visualize and encode work on it; evaluate and report need the weights of training
    images, which only the published code's folder has.
    """
    with command_output(quiet, json, lower="close other programs") as out:
        from concepts_cli.commands.import_concepts import import_concepts
        from concepts_cli.errors import UcdError

        if not model:
            raise UcdError("--model is missing", "name the model that the words were learned on")
        run = import_concepts(files, model=model, images=images or (), name=name, output=output, force=force, out=out)
        out.result(run.path)
        out.document({"run": run.path, "concepts": run.tokens})
        say_next(out, f"words of {run.path}: {' '.join(run.tokens)}", f"ucd sample --concept all --run {run.path}")
