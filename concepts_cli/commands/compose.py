"""`ucd compose`: pictures of several concepts and words at once, each with its weight (eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concepts_cli.commands import PICTURES
from concepts_cli.output import Output
from concepts_cli.pictures.compositions import plan_composition
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.plan import Picture, Sheet
from concepts_cli.pictures.sheets import write_like_sheet, write_sheet, write_sweep_sheets
from concepts_cli.pictures.terms import WrittenTerm
from concepts_cli.processes.environment import is_main
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run


def compose(
    run: Run,
    terms: Sequence[WrittenTerm],
    *,
    sweeps: Sequence[str] = (),
    like: Path | None = None,
    settings: SampleSettings,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> list[Picture | Sheet]:
    """Generate `settings.num_images` pictures of a composition of `terms`; image n uses the seed `settings.seed + n`.

    A term is a concept (`t1`), a concept of another run (`runs/other:t1`, `other:t1`), or free text that may mention
    concepts of `run`. An optional `@PLACE` says where it acts. An optional `=WEIGHT`, which may be negative, defaults
    to the guidance scale; weight 0 leaves the term out. A pair is a name and its weight. With `like`, the terms change
    the image's own weights: `t1=0` removes a concept, `t3=+2` adds to it; a sheet shows the image beside the results.

    A sweep such as `t1=0:10:5` gives a term five weights from 0 to 10, and adds it if `terms` lacks it. One sweep makes
    a row of pictures, two make a plane, on a labelled sheet. Where there are pictures of other settings, the new ones
    go to a folder of their own. Raises UcdError for an unknown run or concept, a weight that is not a number, and runs
    whose models can't be composed.
    """
    composed = plan_composition(
        run,
        terms,
        sweeps=sweeps,
        like=like,
        settings=settings,
        usual_images=1 if sweeps else PICTURES,
        output=output,
        grid=grid,
        device=device,
    )
    plan = composed.plan if force else composed.plan.beside()
    make_missing(plan, force=force, out=out)
    made: list[Picture | Sheet] = [*plan.pictures]
    if is_main() and sweeps:
        made += write_sweep_sheets(plan, composed.fixed, composed.sweeps, force=force)
    elif is_main() and like:
        made.append(write_like_sheet(plan, like, composed.title, force=force))
    elif is_main() and grid:
        made.append(write_sheet(plan, "grid.png", composed.title, force=force))
    return made
