"""`ucd encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.options import (
    Device,
    Force,
    Help,
    Json,
    Quiet,
    RunFolder,
    batch_size_option,
    examples,
    output_option,
    seed_option,
    steps_option,
)
from concepts_cli.cli.session import command_output

EXAMPLES = examples("ucd encode photo.jpg", "ucd encode holiday/ --output weights.csv", "ucd encode photo.jpg --json")


def encode(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", show_default=False, help="Image files, or folders of them.")
    ],
    steps: Annotated[int, steps_option("Draws of noise and timestep per image.")] = 16,
    seed: Annotated[int, seed_option("Seed of the noise.")] = 0,
    batch_size: Annotated[
        int, batch_size_option("Rows per model call; each draw uses one per concept, plus one.")
    ] = 48,
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
    with command_output(quiet, json) as out:
        from concepts_cli.commands.encode import encode as find_weights
        from concepts_cli.runs.find import find_run

        document = find_weights(
            find_run(run),
            images,
            steps=steps,
            seed=seed,
            rows=batch_size,
            output=output,
            force=force,
            device=device,
            out=out,
        )
        out.document(document)
