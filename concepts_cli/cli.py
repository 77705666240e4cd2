"""The `ucd` executable: a function a command that parses, calls and prints. Nothing heavy is imported before it is
needed.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from concepts_cli import __version__
from concepts_cli.errors import UcdError
from concepts_cli.options import takes_sampling
from concepts_cli.output import Output, hush
from concepts_cli.settings import override

app = typer.Typer(
    name="ucd",
    help="Discover the visual concepts in a folder of unlabelled images, and use them.",
    epilog="Start with: ucd train quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, mps or cpu. Default: the best there is.")]
RunFolder = Annotated[
    str | None, typer.Option("--run", help="A run folder. Default: $UCD_RUN, then the newest in runs/.")
]
Output_ = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write. Default: in the run folder.")]
Force = Annotated[bool, typer.Option("--force", help="Write over what is there.")]
NumImages = Annotated[
    int | None, typer.Option("--num-images", "-n", min=1, help="How many of each. Default: the recipe's.")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images denoised together; changes speed, not images.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance-scale", min=0, max=1000, help="1 is none.")]
Scheduler = Annotated[str | None, typer.Option(help="ddim, dpm++, euler, …")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Image n of a seed is always the same image.")]
Grid = Annotated[bool, typer.Option("--grid", help="A contact sheet, too.")]
Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep", metavar="TERM=FROM:TO:COUNT", help="A row of weights, as t1=0:10:5; given twice, a plane of them."
    ),
]
Concept = Annotated[list[str] | None, typer.Option("--concept", "-c", help="t3, <t3> or all; may be repeated.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"ucd {__version__}")
        raise typer.Exit()


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one such as quickstart.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides a setting.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    force: Force = False,
    num_processes: Annotated[
        int, typer.Option(min=1, help="Train in so many processes of this machine, a GPU each.")
    ] = 1,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Discover concepts in the images of a RECIPE. Prints the run folder."""
    with _output(quiet, json) as out:
        from concepts_cli.recipe import load_recipe

        settings = load_recipe(recipe, set_ or [])
        from concepts_cli.commands import train as command

        launching = num_processes > 1 and "WORLD_SIZE" not in os.environ
        if dry_run or launching:
            planned = command.plan(settings, output=output, resume=resume, force=force, processes=num_processes)
        if dry_run:
            out.table("", ["setting", "value"], list(dataclasses.asdict(planned).items()))
            out.document(planned)
            return
        if launching:
            from concepts_cli.launch import launch

            raise typer.Exit(launch(sys.argv[1:], num_processes))
        run = command.train(settings, output=output, resume=resume, force=force, device=device, out=out)
        out.result(run.path)
        out.document({"run": run.path, "concepts": run.tokens, "images": len(run.images)})


@app.command()
@takes_sampling
def sample(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Such as '<t1> in the snow'.")
    ] = None,
    concept: Concept = None,
    sampling: dict | None = None,
    grid: Grid = False,
    output: Output_ = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make pictures of concepts, or of any PROMPT that mentions them. Prints a path per image.

    What no option says is as in the recipe.
    """
    with _output(quiet, json) as out:
        from concepts_cli.commands.sample import sample as make
        from concepts_cli.run_dir import find_run

        found = find_run(run)
        settings = override(found.recipe.sample, sampling)
        pictures = make(
            found,
            prompts=prompts or [],
            concepts=concept or [],
            settings=settings,
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        _print_paths(pictures, out)


@app.command()
@takes_sampling
def compose(
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TERM...", help="t1, t3=4.5, OTHER-RUN:t1, 'at night'=-2: a concept or a text, with a weight."
        ),
    ] = None,
    sweep: Sweeps = None,
    sampling: dict | None = None,
    grid: Grid = False,
    output: Output_ = None,
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
    with _output(quiet, json) as out:
        from concepts_cli.commands.compose import compose as make
        from concepts_cli.run_dir import find_run

        found = find_run(run)
        settings = override(found.recipe.sample, {"num_images": 1 if sweep else 4} | sampling)
        pictures = make(
            found,
            terms or [],
            sweeps=sweep or [],
            settings=settings,
            output=output,
            grid=grid,
            force=force,
            device=device,
            out=out,
        )
        _print_paths(pictures, out)


@app.command()
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
        float, typer.Option(min=0, max=1, help="What counts as covered, and is white in a mask.")
    ] = 0.25,
    maps: Annotated[bool, typer.Option("--maps", help="Each map as NAME.npy, too.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Each map's mask as NAME-mask.png, too.")] = False,
    num_images: NumImages = 4,
    batch_size: BatchSize = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps. Default: 50 for real images, else the recipe's.")
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", min=0, max=1000, help="Default: 1, none, for real images, else the recipe's."),
    ] = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    grid: Annotated[bool, typer.Option("--grid", help="A sheet of all of them, too: sheet.png.")] = False,
    output: Output_ = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show where concepts live, in IMAGES or in pictures made of them, as heat maps. Prints a path per overlay."""
    with _output(quiet, json) as out:
        from concepts_cli.commands.compose import parse_term
        from concepts_cli.commands.visualize import visualize as draw
        from concepts_cli.core.attention import Selection
        from concepts_cli.overlays import MapSettings
        from concepts_cli.run_dir import find_run

        found = find_run(run)
        if images or training_images:
            steps = steps or 50  # as published
        given = {"num_images": num_images, "batch_size": batch_size, "steps": steps, "seed": seed}
        given |= {"guidance_scale": guidance_scale, "scheduler": scheduler}
        settings = override(found.recipe.sample, {name: value for name, value in given.items() if value is not None})
        drawn, failed = draw(
            found,
            images=images or [],
            training_images=training_images,
            concepts=concept or [],
            prompt=prompt,
            words=word or [],
            terms=[parse_term(found, text, settings.guidance_scale) for text in term or []],
            settings=settings,
            maps=MapSettings(
                kind=map_ or ("attention" if engine == "daam" else "contrast"),
                engine=engine,
                inversion=inversion,
                guidance_scale=1.0 if guidance_scale is None else guidance_scale,
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
        _print_paths(drawn, out)
        if failed:
            raise typer.Exit(1)


@app.command()
def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", help="clip, resnet, assignment, classification, naming or all; may be repeated."
        ),
    ] = None,
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class-names", help="The hidden classes, separated by commas. Default: the recipe's."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Score at which an image counts as its class.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Other samples: a folder with one folder a concept.")] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="Images to classify, in a folder a class; may be repeated.")
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="A run folder; several for their spread. Default: $UCD_RUN, then the newest."),
    ] = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what was discovered against the hidden classes. Prints tables."""
    with _output(quiet, json) as out:
        from concepts_cli.commands import evaluate as command
        from concepts_cli.run_dir import find_run

        options = {
            "metrics": metric or [],
            "class_names": [name.strip() for given in class_names or [] for name in given.split(",") if name.strip()],
            "threshold": threshold,
            "samples": samples,
            "held_out": held_out or [],
            "device": device,
            "out": out,
        }
        runs = [find_run(one) for one in run or [None]]
        if len(runs) > 1:
            out.document(command.evaluate_runs(runs, **options))
        else:
            out.document(command.evaluate(runs[0], **options))


@app.command()
def encode(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    steps: Annotated[int, typer.Option(min=1, help="Draws of noise and timestep an image.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the noise.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows of a UNet call; a draw has one a concept, and one more.")
    ] = 48,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv, .json or .safetensors file to write, too.")
    ] = None,
    force: Force = False,
    run: RunFolder = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the concept weights of new images, concepts frozen. Prints a row per image."""
    with _output(quiet, json) as out:
        from concepts_cli.commands.encode import encode as weigh
        from concepts_cli.run_dir import find_run

        found = weigh(
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
        out.document(found)


@app.command()
def report(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write. Default: report.html in the run folder.")
    ] = None,
    force: Force = False,
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a run as one HTML page that needs nothing else. Prints its path."""
    with _output(quiet, json) as out:
        from concepts_cli.commands.report import report as write
        from concepts_cli.run_dir import find_run

        path = write(find_run(run), output=output, force=force)
        out.result(path)
        out.document({"path": path})


def main() -> None:
    """Run `ucd`; what the `ucd` script and `python -m concepts_cli` call."""
    app(prog_name="ucd")


@contextmanager
def _output(quiet: bool, json: bool) -> Iterator[Output]:
    """The command's output, and the exit status of whatever goes wrong in it."""
    out = Output(quiet=quiet, json=json, mute=os.environ.get("RANK", "0") != "0")  # of many processes the first speaks
    hush()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, leaves nothing half done
    try:
        yield out
    except UcdError as error:
        if os.environ.get("UCD_DEBUG", "0") not in ("", "0"):
            raise
        out.error(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    finally:
        out.close()
        signal.signal(signal.SIGTERM, before)


def _print_paths(pictures, out: Output) -> None:
    for picture in pictures:
        out.result(picture.path)
    out.document(pictures)
