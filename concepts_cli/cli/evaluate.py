"""`ucd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from concepts_cli.cli.options import (
    HOW,
    MEASURE,
    Device,
    Help,
    Json,
    Quiet,
    choices,
    examples,
    given_path,
    option,
    run_option,
    threshold_option,
)
from concepts_cli.cli.session import chosen_run, command_output, say_next
from concepts_cli.recipe import METRICS
from concepts_cli.recipe.numbers import SCORE
from concepts_cli.runs.run import EVALUATION

EXAMPLES = examples(
    "ucd evaluate --metric all",
    "ucd evaluate --metric clip --json | jq .metrics.clip.accuracy",
    "ucd evaluate --run runs/seed-0 --run runs/seed-1 --metric resnet",
)


def evaluate(
    metric: Annotated[
        list[str] | None,
        option(
            "--metric",
            "-m",
            help=f"{', '.join(METRICS)} or all. Repeatable. Default: the recipe's.",
            panel=MEASURE,
            metavar="NAME",
            autocompletion=choices(*METRICS, "all"),
        ),
    ] = None,
    class_names: Annotated[
        list[str] | None,
        option(
            "--class-names",
            help="The hidden classes, separated by commas. Default: the recipe's.",
            panel=HOW,
            metavar="NAMES",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        threshold_option(
            "Score from which a sample counts as its class; needs exactly one --metric, clip or resnet. Default: the "
            "recipe's, or else the scorer's own.",
            **SCORE,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        option(
            "--samples",
            help="Score other samples: a folder with one subfolder per concept.",
            panel=HOW,
            metavar="FOLDER",
            parser=given_path,
        ),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        option(
            "--held-out",
            help="Images to classify: a folder with one subfolder per class. Repeatable.",
            panel=HOW,
            metavar="FOLDER",
            parser=given_path,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        run_option("Run folder, or its name in runs/; several show their spread. Default: $UCD_RUN, then the newest."),
    ] = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Measure what was discovered against the hidden classes.

    Prints tables, and writes evaluation.json to the run folder.
    """
    with command_output(quiet, json, lower="use --device cpu, or fewer metrics at once") as out:
        runs = [chosen_run(path, out) for path in run] if run else [chosen_run(None, out)]
        from concepts_cli.commands import evaluate as command

        options: dict[str, Any] = {
            "metrics": metric or [],
            "class_names": [name.strip() for given in class_names or [] for name in given.split(",") if name.strip()],
            "threshold": threshold,
            "samples": samples,
            "held_out": held_out or [],
            "device": device,
            "out": out,
        }
        if len(runs) > 1:
            command.evaluate_runs(runs, **options)
        else:
            command.evaluate(runs[0], **options)
            say_next(out, f"written to {runs[0].path / EVALUATION}", "`ucd report` shows all on a page")
