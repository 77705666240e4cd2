"""`ucd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.options import Device, Json, Quiet, run_option, threshold_option
from concepts_cli.cli.session import command_output


def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="clip, resnet, assignment, classification, naming, composition, recomposition or all; repeatable.",
        ),
    ] = None,
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class-names", help="The hidden classes, separated by commas. Default: the recipe's."),
    ] = None,
    threshold: Annotated[float | None, threshold_option("Score at which an image counts as its class.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Other samples: a folder with one folder a concept.")] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="Images to classify, in a folder a class; may be repeated.")
    ] = None,
    run: Annotated[
        list[str] | None,
        run_option("A run folder; several for their spread. Default: $UCD_RUN, then the newest."),
    ] = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what was discovered against the hidden classes. Prints tables."""
    with command_output(quiet, json) as out:
        from concepts_cli.commands import evaluate as command
        from concepts_cli.runs.find import find_run

        options = {
            "metrics": metric or [],
            "class_names": [name.strip() for given in class_names or [] for name in given.split(",") if name.strip()],
            "threshold": threshold,
            "samples": samples,
            "held_out": held_out or [],
            "device": device,
            "out": out,
        }
        runs = [find_run(path) for path in run or [None]]
        if len(runs) > 1:
            out.document(command.evaluate_runs(runs, **options))
        else:
            out.document(command.evaluate(runs[0], **options))
