"""`ucd sample`: pictures of a run's concepts, or of any prompt that mentions them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concepts_cli.output import Output
from concepts_cli.pictures import Picture, concept_order, fill, write_sheet
from concepts_cli.processes import is_main
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run


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
) -> list[Picture]:
    """Pictures of the concepts and prompts; those that are there already are not made again unless `force`.

    With `grid` a contact sheet, a row a prompt, comes last. Raises UcdError for an unknown concept, and for a file of
    another prompt or setting that is in the way.
    """
    order = concept_order(run, settings, prompts=prompts, concepts=concepts, output=output)
    fill(order, force=force, device=device, out=out)
    made = order.pictures
    if grid and is_main():
        made.append(write_sheet(order, (output or run.path / "samples") / "grid.png"))
    return made
