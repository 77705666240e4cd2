"""`ucd visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.options import (
    Concept,
    Device,
    Force,
    Json,
    OutputFolder,
    Quiet,
    RunFolder,
    grid_option,
    threshold_option,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import command_output, print_paths
from concepts_cli.commands import INVERSION_STEPS, PICTURES


@takes_sampling(
    ("num_images", "batch_size", "steps", "guidance_scale", "scheduler", "seed"),
    meanings={
        "num_images": f"How many of each. Default: {PICTURES}.",
        "steps": f"Denoising steps. Default: {INVERSION_STEPS} for real images, else the recipe's.",
        "guidance_scale": "Default: 1, none, for real images, else the recipe's.",
    },
)
def visualize(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Real images; none: pictures are made.")
    ] = None,
    concept: Concept = None,
    prompt: Annotated[str | None, typer.Option(help="Look for words of this prompt instead of concepts.")] = None,
    word: Annotated[
        list[str] | None, typer.Option("--word", "-w", help="Of the prompt; may be repeated. Default: its concepts.")
    ] = None,
    term: Annotated[
        list[str] | None, typer.Option("--term", help="t1, t3=4.5, 'at night'=-2: as compose has it; may be repeated.")
    ] = None,
    training_images: Annotated[bool, typer.Option("--training-images", help="The run's own images.")] = False,
    map_: Annotated[
        str | None, typer.Option("--map", help="contrast (attention where the concept explains most) or attention.")
    ] = None,
    engine: Annotated[str, typer.Option(help="native, or daam for the package of that name.")] = "native",
    inversion: Annotated[str, typer.Option(help="ddim, or fixed-point: exacter, a third slower.")] = "ddim",
    layer: Annotated[
        list[str] | None, typer.Option(help="Part of a layer's name, as up_blocks.1; may be repeated. Default: all.")
    ] = None,
    resolution: Annotated[
        list[int] | None, typer.Option(min=1, help="Of a layer's map, as 16; may be repeated. Default: all.")
    ] = None,
    head: Annotated[list[int] | None, typer.Option(min=0, help="From 0; may be repeated. Default: all.")] = None,
    timesteps: Annotated[
        tuple[int, int] | None,
        typer.Option(min=0, metavar="FIRST LAST", help="Of the model's, 0 to 999. Default: all."),
    ] = None,
    threshold: Annotated[
        float, threshold_option("What counts as covered, and is white in a mask.", min=0, max=1)
    ] = 0.25,
    maps: Annotated[bool, typer.Option("--maps", help="Each map as NAME.npy, too.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Each map's mask as NAME-mask.png, too.")] = False,
    sampling: dict | None = None,
    grid: Annotated[bool, grid_option("A sheet of all of them, too: sheet.png.")] = False,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show where concepts live, in IMAGES or in pictures made of them, as heat maps. Prints a path per overlay."""
    with command_output(quiet, json) as out:
        from concepts_cli.commands.visualize import visualize as draw
        from concepts_cli.core.attention import Selection
        from concepts_cli.pictures.overlays import MapSettings
        from concepts_cli.pictures.terms import parse_term
        from concepts_cli.recipe.fields import override
        from concepts_cli.runs.find import find_run

        source, given = find_run(run), sampling or {}
        defaults = {"num_images": PICTURES}
        if images or training_images:
            defaults["steps"] = INVERSION_STEPS
        settings = override(source.recipe.sample, defaults | given)
        drawn, failed = draw(
            source,
            images=images or [],
            training_images=training_images,
            concepts=concept or [],
            prompt=prompt,
            words=word or [],
            terms=[parse_term(source, text, settings.guidance_scale) for text in term or []],
            settings=settings,
            maps=MapSettings(
                kind=map_ or ("attention" if engine == "daam" else "contrast"),
                engine=engine,
                inversion=inversion,
                guidance_scale=given.get("guidance_scale", 1.0),
                selection=Selection(tuple(layer or ()), tuple(resolution or ()), tuple(head or ()), timesteps),
                threshold=threshold,
                save_maps=maps,
                save_masks=masks,
            ),
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        print_paths(drawn, out)
        if failed:
            raise typer.Exit(1)
