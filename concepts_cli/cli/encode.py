"""`ucd encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.cli.completion import complete_files
from concepts_cli.cli.options import (
    Device,
    Force,
    Help,
    Json,
    Quiet,
    RunFolder,
    examples,
    given_path,
    output_option,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import chosen_run, command_output, say_next
from concepts_cli.core import ROWS, STEPS

EXAMPLES = examples("ucd encode photo.jpg", "ucd encode holiday/ --output weights.csv", "ucd encode photo.jpg --json")


@takes_sampling(
    {
        "steps": f"Draws of noise and timestep per image. Default: {STEPS}.",
        "seed": "Seed of the noise. Default: 0.",
        "batch_size": f"Rows per model call; each draw uses one per concept, plus one. Default: {ROWS}.",
    },
    names=("steps", "seed", "batch_size"),
)
def encode(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            show_default=False,
            parser=given_path,
            help="Image files, or folders of them.",
            autocompletion=complete_files,
        ),
    ],
    sampling: dict[str, Any] | None = None,
    output: Annotated[Path | None, output_option("Also write a file: .csv, .json or .safetensors.")] = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Find the concept weights of new images.

    Prints one row per image. The concepts stay as they are.
    """
    with command_output(quiet, json, lower="lower --batch-size, or use --device cpu") as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.encode import encode as find_weights

        given = sampling or {}
        document = find_weights(
            source,
            images,
            steps=given.get("steps", STEPS),
            seed=given.get("seed", 0),
            rows=given.get("batch_size", ROWS),
            output=output,
            force=force,
            device=device,
            out=out,
        )
        out.document(document)
        count = len(document["images"])
        done = f"the weights of {count:,} image{'s' * (count > 1)} by {source.path}"
        say_next(out, done, "`ucd compose --like IMAGE` makes pictures from an image's weights")
