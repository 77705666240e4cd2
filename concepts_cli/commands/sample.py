"""`ucd sample`: pictures of a run's concepts, or of any prompt that mentions them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concepts_cli.output import Output
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import Picture, Sheet, concept_plan
from concepts_cli.pictures.sheets import write_sheet
from concepts_cli.processes.environment import is_main
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run


def sample(
    run: Run,
    *,
    prompts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    settings: SampleSettings,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> list[Picture | Sheet]:
    """Generate pictures of the concepts and prompts; those that exist are kept, unless `force`.

    Where there are pictures of other settings, the new ones go to a folder of their own, such as `steps=20`. With
    `grid`, a contact sheet with one row per prompt comes last. Raises UcdError for an unknown concept.
    """
    plan = concept_plan(run, settings, prompts=prompts, concepts=concepts, output=output, grid=grid, device=device)
    plan = plan if force else plan.beside()
    make_missing(plan, force=force, out=out)
    made: list[Picture | Sheet] = [*plan.pictures]
    if grid and is_main():
        made.append(write_sheet(plan, "grid.png", force=force))
    return made
