"""`ucd visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.cli.completion import complete_terms
from concepts_cli.cli.options import (
    HOW,
    WHAT,
    WHERE,
    Concept,
    Device,
    Force,
    Help,
    Json,
    OutputFolder,
    Quiet,
    RunFolder,
    choices,
    examples,
    flag,
    grid_option,
    number,
    option,
    threshold_option,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import command_output, print_paths
from concepts_cli.commands import INVERSION_STEPS, PICTURES

EXAMPLES = examples(
    "ucd visualize photo.jpg --concept t1 --concept t3",
    "ucd visualize --training-images --grid",
    "ucd visualize --prompt 'a <t1> in the snow' --word snow --num-images 2",
)


@takes_sampling(
    ("num_images", "batch_size", "steps", "guidance_scale", "scheduler", "seed"),
    helps={
        "num_images": f"Number of images to generate per concept, prompt or composition. Default: {PICTURES}.",
        "steps": f"Denoising steps. Default: {INVERSION_STEPS} for given images, otherwise the recipe's.",
        "guidance_scale": "Guidance. Default: 1 (none) for given images, otherwise the recipe's.",
    },
)
def visualize(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Images to look into. Default: generate new ones."),
    ] = None,
    concept: Concept = None,
    prompt: Annotated[
        str | None,
        option("--prompt", help="Map words of this prompt instead of concepts.", panel=WHAT, metavar="TEXT"),
    ] = None,
    word: Annotated[
        list[str] | None,
        option(
            "--word",
            "-w",
            help="Word of the prompt to map. Repeatable. Default: its concepts.",
            panel=WHAT,
            metavar="WORD",
        ),
    ] = None,
    term: Annotated[
        list[str] | None,
        option(
            "--term",
            help="Map a term of a composition, as in t1, t3=4.5 or 'at night=-2'. Repeatable.",
            panel=WHAT,
            metavar="TERM",
            autocompletion=complete_terms,
        ),
    ] = None,
    training_images: Annotated[
        bool, flag("--training-images", help="Look into the run's own images.", panel=WHAT)
    ] = False,
    sampling: dict[str, Any] | None = None,
    map_: Annotated[
        str | None,
        option(
            "--map",
            help="contrast (attention where the concept explains the image best) or attention. Default: contrast.",
            panel=HOW,
            metavar="NAME",
            autocompletion=choices("contrast", "attention"),
        ),
    ] = None,
    engine: Annotated[
        str,
        option(
            "--engine",
            help="native, or daam for the package of that name.",
            panel=HOW,
            metavar="NAME",
            autocompletion=choices("native", "daam"),
        ),
    ] = "native",
    inversion: Annotated[
        str,
        option(
            "--inversion",
            help="ddim, or fixed-point: more exact, a third slower.",
            panel=HOW,
            metavar="NAME",
            autocompletion=choices("ddim", "fixed-point"),
        ),
    ] = "ddim",
    layer: Annotated[
        list[str] | None,
        option(
            "--layer",
            help="Use layers whose name contains this; a wrong one lists them. Repeatable. Default: all.",
            panel=HOW,
            metavar="NAME",
        ),
    ] = None,
    resolution: Annotated[
        list[int] | None,
        number(
            "--resolution",
            help="Use layers with attention maps of this side length, such as 16. Repeatable. Default: all.",
            panel=HOW,
            at_least=1,
        ),
    ] = None,
    head: Annotated[
        list[int] | None,
        number("--head", help="Use this attention head, from 0. Repeatable. Default: all.", panel=HOW, at_least=0),
    ] = None,
    timesteps: Annotated[
        tuple[int, int] | None,
        number(
            "--timesteps",
            help="Use timesteps of the model in this range, from 0 to 999. Default: all.",
            panel=HOW,
            at_least=0,
            metavar="FIRST LAST",
        ),
    ] = None,
    threshold: Annotated[
        float,
        threshold_option("Heat from which a place counts as covered, and is white in a mask.", at_least=0, at_most=1),
    ] = 0.25,
    maps: Annotated[bool, flag("--maps", help="Also write each map as an array, NAME.npy.", panel=WHERE)] = False,
    masks: Annotated[bool, flag("--masks", help="Also write each mask, NAME-mask.png.", panel=WHERE)] = False,
    grid: Annotated[bool, grid_option("Also write all overlays on one sheet, sheet.png.")] = False,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Show where concepts are in images, as heat maps.

    Prints one path per overlay. The images are yours, the run's own, or freshly generated ones.
    """
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
