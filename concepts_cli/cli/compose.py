"""`ucd compose`."""

from __future__ import annotations

from typing import Annotated

import typer

from concepts_cli.cli.options import Device, Force, Grid, Json, OutputFolder, Quiet, RunFolder
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import command_output, print_paths
from concepts_cli.commands import PICTURES


@takes_sampling()
def compose(
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TERM...", help="t1, t3=4.5, OTHER-RUN:t1, 'at night'=-2: a concept or a text, with a weight."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="TERM=FROM:TO:COUNT",
            help="A row of weights, as t1=0:10:5; given twice, a plane of them.",
        ),
    ] = None,
    sampling: dict | None = None,
    grid: Grid = False,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make pictures of several concepts and words at once, each with its weight. Prints a path per image.

    A term without a weight has the guidance scale. What no option says is as in the recipe, but for the number of
    pictures: 4, in a sweep 1.
    """
    with command_output(quiet, json) as out:
        from concepts_cli.commands.compose import compose as make
        from concepts_cli.recipe.fields import override
        from concepts_cli.runs.find import find_run

        source = find_run(run)
        pictures = make(
            source,
            terms or [],
            sweeps=sweep or [],
            settings=override(source.recipe.sample, {"num_images": 1 if sweep else PICTURES} | (sampling or {})),
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        print_paths(pictures, out)
