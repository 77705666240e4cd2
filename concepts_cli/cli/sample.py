"""`ucd sample`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from concepts_cli.cli.options import (
    Concept,
    Device,
    Force,
    Grid,
    Help,
    Json,
    OutputFolder,
    Quiet,
    RunFolder,
    examples,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import chosen_run, command_output, print_paths

EXAMPLES = examples(
    "ucd sample --concept t3 --num-images 16",
    "ucd sample --concept all --steps 20 --grid",
    "ucd sample 't1 at night' --seed 7",
)


@takes_sampling({"num_images": "Number of images per concept or prompt."})
def sample(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="A concept, or text that may mention some: 't1 at night'."),
    ] = None,
    concept: Concept = None,
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
    """Generate images of concepts, or of prompts that mention them.

    Prints one path per image. Options default to the recipe's values.
    """
    with command_output(quiet, json) as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.sample import sample as make
        from concepts_cli.recipe.fields import override
        from concepts_cli.runs.run import bare_name

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
        names = " ".join(map(bare_name, source.tokens[:2]))
        suggestion = f"`ucd compose {names}` combines concepts, `ucd report` shows all on a page"
        print_paths(source, "pictures", pictures, out, suggestion)
