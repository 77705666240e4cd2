"""`ucd compose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.cli.completion import complete_terms
from concepts_cli.cli.options import (
    WHAT,
    Device,
    Force,
    Grid,
    Help,
    Json,
    OutputFolder,
    Quiet,
    RunFolder,
    examples,
    given_path,
    option,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import chosen_run, command_output, print_paths
from concepts_cli.commands import PICTURES

EXAMPLES = examples(
    "ucd compose t1 t3=4.5 'at night=-2'",
    "ucd compose t1@left=5 mini-styles:t4=2 --grid",
    "ucd compose t4 --sweep 'at night=0:4:3'",
)

NEXT = "`ucd report` shows all on a page"


@takes_sampling(
    {
        "num_images": "Number of images of the composition. Default: 4, or 1 per weight of a sweep.",
        "guidance_scale": "Weight of terms that have none of their own.",
    }
)
def compose(
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TERM",
            help="Concept, RUN:CONCEPT or text, with an optional @PLACE and =WEIGHT.",
            autocompletion=complete_terms,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            "--sweep",
            help="Vary the weight of a term, as in t1=0:10:5 for five weights from 0 to 10. Give it twice for a plane.",
            panel=WHAT,
            metavar="TERM=FROM:TO:COUNT",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        option(
            "--like",
            help="Start from the weights of this image; terms change them, as in t1=0 or t3=+2.",
            panel=WHAT,
            metavar="IMAGE",
            parser=given_path,
        ),
    ] = None,
    sampling: dict[str, Any] | None = None,
    grid: Grid = False,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Generate images that combine weighted concepts and texts.

    Prints one path per image. A term without a weight uses the guidance scale; a negative weight steers away from it.
    Other options default to the recipe's values.
    """
    with command_output(quiet, json) as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.compose import compose as make
        from concepts_cli.recipe.fields import override

        pictures = make(
            source,
            terms or [],
            sweeps=sweep or [],
            like=like,
            settings=override(source.recipe.sample, {"num_images": 1 if sweep else PICTURES} | (sampling or {})),
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        print_paths(source, "pictures", pictures, out, NEXT)
