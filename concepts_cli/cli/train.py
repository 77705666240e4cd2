"""`ucd train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.cli.completion import complete_recipes, complete_settings
from concepts_cli.cli.options import (
    HOW,
    RUN,
    WHAT,
    WHERE,
    Device,
    Force,
    Help,
    Json,
    Quiet,
    examples,
    flag,
    number,
    option,
    output_option,
)
from concepts_cli.cli.session import command_output, model_at_hand, say_next
from concepts_cli.output import escape

EXAMPLES = examples(
    "ucd train quickstart",
    "ucd train photos/ --set concepts.count=8 --dry-run",
    "ucd train runs/mine --resume",
)
LOWER_MEMORY = (
    "--set train.batch_size=1, train.concept_checkpointing=true, train.gradient_checkpointing=true, or a lower "
    "data.resolution, data.repeats or sample.batch_size"
)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            show_default=False,
            help=escape(
                "Recipe file, the name of a shipped recipe, images (a folder, .csv, .tar or hf:user/name[train]), or "
                "a run to resume."
            ),
            autocompletion=complete_recipes,
        ),
    ],
    set_: Annotated[
        list[str] | None,
        option(
            "--set",
            help="Override a setting of the recipe, as in train.max_steps=500. Repeatable.",
            panel=WHAT,
            metavar="KEY=VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
    resume: Annotated[
        bool, flag("--resume", help="Continue a run, by its own recipe, from its last checkpoint.", panel=HOW)
    ] = False,
    dry_run: Annotated[
        bool,
        flag(
            "--dry-run", help="Check recipe, images, model and device, and say what it takes; train nothing.", panel=HOW
        ),
    ] = False,
    preview_every: Annotated[
        int | None,
        number(
            "--preview-every",
            help="Draw samples of all concepts every N steps, and say where: train.preview_every.",
            panel=WHERE,
            at_least=1,
            at_most=1_000_000,
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Run folder to create. Default: runs/NAME.")] = None,
    force: Force = False,
    num_processes: Annotated[
        int,
        number(
            "--num-processes", help="Number of training processes, one GPU each.", panel=RUN, at_least=1, at_most=1024
        ),
    ] = 1,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Discover the concepts in a recipe's images, or in a folder of images.

    A folder gets the model that is at hand and fits the device; `ucd init FOLDER` shows what it is trained with,
    and why. Prints the run folder. Ctrl-C finishes the current step and saves a checkpoint.
    """
    with command_output(quiet, json, lower=LOWER_MEMORY) as out:
        from concepts_cli.processes.environment import is_launched
        from concepts_cli.runs.training_folder import recipe_and_folder

        changes = [*(set_ or []), *([f"train.preview_every={preview_every}"] if preview_every else [])]
        settings, output = recipe_and_folder(recipe, changes, output, resume=resume, at_hand=model_at_hand(device))
        out.loading(f"{settings.name}: loading {settings.model}")
        from concepts_cli.commands import train as command  # imports torch; a recipe's mistakes need not wait for it

        options: dict[str, Any] = {"output": output, "resume": resume, "force": force, "device": device}
        if dry_run:
            planned = command.plan(settings, **options, processes=num_processes, out=out)
            out.table(
                "", ["what", "value"], [(name.replace("_", " "), _shown(value)) for name, value in planned.rows()]
            )
            out.document(planned)
            say_next(out, "all of this is checked, and nothing is trained", "the same without --dry-run")
        elif num_processes > 1 and not is_launched():
            from concepts_cli.processes.launch import launch

            # So that mistakes are reported once; the GPUs are left to the processes.
            command.plan(settings, **options, processes=num_processes, tells_memory=False, out=out)
            out.close()  # the processes have the terminal
            raise typer.Exit(launch(sys.argv[1:], num_processes))
        else:
            from concepts_cli.training.telling import found

            run = command.train(settings, **options, out=out)
            out.result(run.path)
            out.document({"run": run.path, "concepts": run.tokens, "images": len(run.images)})
            say_next(out, found(run), f"ucd sample --concept all --grid --run {run.path}")


def _shown(value: object) -> str:
    """A value of the plan, as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
