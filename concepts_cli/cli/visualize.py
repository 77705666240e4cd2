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
    examples,
    flag,
    given_path,
    grid_option,
    number,
    one_of,
    option,
    threshold_option,
)
from concepts_cli.cli.sampling import takes_sampling
from concepts_cli.cli.session import chosen_run, command_output, print_paths
from concepts_cli.commands import INVERSION_STEPS, PICTURES

EXAMPLES = examples(
    "ucd visualize photo.jpg --concept t1 --concept t3",
    "ucd visualize --training-images --grid",
    "ucd visualize --prompt 't1 at night' --word night --num-images 2",
)


Images = Annotated[
    list[Path] | None,
    typer.Argument(metavar="IMAGE", parser=given_path, help="Images to look into. Default: generate new ones."),
]
Prompt = Annotated[
    str | None,
    option("--prompt", help="Map words of this prompt instead of concepts.", panel=WHAT, metavar="TEXT"),
]
Words = Annotated[
    list[str] | None,
    option(
        "--word", "-w", help="Word of the prompt to map. Repeatable. Default: its concepts.", panel=WHAT, metavar="WORD"
    ),
]
Terms = Annotated[
    list[str] | None,
    option(
        "--term",
        help="Map a term of a composition, as in t1, t3=4.5 or 'at night=-2'. Repeatable.",
        panel=WHAT,
        metavar="TERM",
        autocompletion=complete_terms,
    ),
]
TrainingImages = Annotated[bool, flag("--training-images", help="Look into the run's own images.", panel=WHAT)]
Kind = Annotated[
    str | None,
    one_of(
        "--map",
        "contrast",
        "attention",
        "daam",
        help="contrast (attention where the concept explains the image best), attention, or daam (attention as the "
        "published scripts record it). Default: contrast.",
        panel=HOW,
    ),
]
Engine = Annotated[
    str, one_of("--engine", "native", "daam", help="native, or daam for the package of that name.", panel=HOW)
]
Inversion = Annotated[
    str,
    one_of("--inversion", "ddim", "fixed-point", help="ddim, or fixed-point: more exact, a third slower.", panel=HOW),
]
Layers = Annotated[
    list[str] | None,
    option(
        "--layer",
        help="Use layers whose name contains this; a wrong one lists them. Repeatable. "
        "Default: all; a transformer's later ones.",
        panel=HOW,
        metavar="NAME",
    ),
]
Resolutions = Annotated[
    list[int] | None,
    number(
        "--resolution",
        help="Use layers with attention maps of this side length, such as 16. Repeatable. Default: all.",
        panel=HOW,
        at_least=1,
        at_most=16_384,
    ),
]
Heads = Annotated[
    list[int] | None,
    number(
        "--head",
        help="Use this attention head, from 0. Repeatable. Default: all.",
        panel=HOW,
        at_least=0,
        at_most=10_000,
    ),
]
Timesteps = Annotated[
    tuple[int, int] | None,
    number(
        "--timesteps",
        help="Use timesteps of the model in this range, from 0 to 999. Default: all.",
        panel=HOW,
        at_least=0,
        at_most=999_999,
        metavar="FIRST LAST",
    ),
]
Threshold = Annotated[
    float,
    threshold_option("Heat from which a place counts as covered, and is white in a mask.", at_least=0, at_most=1),
]
Maps = Annotated[bool, flag("--maps", help="Also write each map as an array, NAME.npy.", panel=WHERE)]
Masks = Annotated[bool, flag("--masks", help="Also write each mask, NAME-mask.png.", panel=WHERE)]
Sheet = Annotated[bool, grid_option("Also write all overlays on one sheet, sheet.png.")]


@takes_sampling(
    {
        "num_images": f"Number of images to generate per concept, prompt or composition. Default: {PICTURES}.",
        "steps": f"Denoising steps. Default: {INVERSION_STEPS} for given images, otherwise the recipe's.",
        "guidance_scale": "Guidance. Default: 1 (none) for given images, otherwise the recipe's.",
        "seed": "Seed of the first image; image n uses seed + n. With --map daam, all given images use the same seed.",
    },
)
def visualize(
    images: Images = None,
    concept: Concept = None,
    prompt: Prompt = None,
    word: Words = None,
    term: Terms = None,
    training_images: TrainingImages = False,
    sampling: dict[str, Any] | None = None,
    map_: Kind = None,
    engine: Engine = "native",
    inversion: Inversion = "ddim",
    layer: Layers = None,
    resolution: Resolutions = None,
    head: Heads = None,
    timesteps: Timesteps = None,
    threshold: Threshold = 0.25,
    maps: Maps = False,
    masks: Masks = False,
    grid: Sheet = False,
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
        source = chosen_run(run, out)
        from concepts_cli.commands.visualize import heat_map_settings
        from concepts_cli.commands.visualize import visualize as draw
        from concepts_cli.models.interface import Selection
        from concepts_cli.pictures.overlays import MapSettings

        kind, real = map_ or ("attention" if engine == "daam" else "contrast"), bool(images) or training_images
        drawn, failed = draw(
            source,
            images=images or [],
            training_images=training_images,
            concepts=concept or [],
            prompt=prompt,
            words=word or [],
            terms=term or [],
            settings=heat_map_settings(source, sampling or {}, real=real, kind=kind),
            maps=MapSettings(
                kind=kind,
                engine=engine,
                inversion=inversion,
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
        print_paths(source, "maps", drawn, out, "`ucd report` shows all on a page")
        if failed:
            raise typer.Exit(1)
