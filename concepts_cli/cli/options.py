"""Every option that commands share, declared once. What differs by command is only what an option is said to mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from concepts_cli.recipe import MAX_SEED


def output_option(help_: str) -> Any:
    return typer.Option("--output", "-o", help=help_)


def run_option(help_: str) -> Any:
    return typer.Option("--run", help=help_)


def grid_option(help_: str) -> Any:
    return typer.Option("--grid", help=help_)


def threshold_option(help_: str, **limits: float) -> Any:
    return typer.Option("--threshold", help=help_, **limits)


def steps_option(help_: str) -> Any:
    return typer.Option("--steps", min=1, help=help_)


def seed_option(help_: str) -> Any:
    return typer.Option("--seed", min=0, max=MAX_SEED, help=help_)


def batch_size_option(help_: str) -> Any:
    return typer.Option("--batch-size", min=1, help=help_)


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Device = Annotated[str | None, typer.Option("--device", help="cuda, cuda:1, mps or cpu. Default: the best there is.")]
RunFolder = Annotated[str | None, run_option("A run folder. Default: $UCD_RUN, then the newest in runs/.")]
OutputFolder = Annotated[Path | None, output_option("Where to write. Default: in the run folder.")]
Force = Annotated[bool, typer.Option("--force", help="Write over what is there.")]
Grid = Annotated[bool, grid_option("A contact sheet, too.")]
Concept = Annotated[list[str] | None, typer.Option("--concept", "-c", help="t3, <t3> or all; may be repeated.")]
