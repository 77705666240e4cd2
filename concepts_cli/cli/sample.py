"""`ucd sample`."""

from __future__ import annotations

from typing import Annotated

import typer

from concepts_cli.cli.options import Concept, Device, Force, Grid, Json, OutputFolder, Quiet, RunFolder
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import command_output, print_paths


@takes_sampling()
def sample(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Such as '<t1> in the snow'.")
    ] = None,
    concept: Concept = None,
    sampling: dict | None = None,
    grid: Grid = False,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make pictures of concepts, or of any PROMPT that mentions them. Prints a path per image.

    What no option says is as in the recipe.
    """
    with command_output(quiet, json) as out:
        from concepts_cli.commands.sample import sample as make
        from concepts_cli.recipe.fields import override
        from concepts_cli.runs.find import find_run

        source = find_run(run)
        pictures = make(
            source,
            prompts=prompts or [],
            concepts=concept or [],
            settings=override(source.recipe.sample, sampling or {}),
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        print_paths(pictures, out)
