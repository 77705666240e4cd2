"""`ucd compose`: pictures of several concepts and words at once, each with its weight (eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concepts_cli.commands import PICTURES
from concepts_cli.core.sampling import composition
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import making_command
from concepts_cli.pictures.likeness import image_weights, like_terms
from concepts_cli.pictures.making import make_missing
from concepts_cli.pictures.names import file_name, public_term
from concepts_cli.pictures.plan import Picture, PicturePlan, Sheet, planned
from concepts_cli.pictures.sheets import write_like_sheet, write_sheet, write_sweep_sheets
from concepts_cli.pictures.terms import (
    WrittenTerm,
    beside,
    composition_cells,
    parse_sweep,
    parse_term,
    term_key,
    written,
)
from concepts_cli.pictures.words import concept_words
from concepts_cli.processes.environment import is_main
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
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
    texts, others = [written(term) for term in terms], dict[str, Run]()
    if like:
        parsed = like_terms(run, image_weights(run, like, device), terms, settings.guidance_scale, others)
    else:
        parsed = [parse_term(run, term, settings.guidance_scale, others) for term in terms]
    swept = [parse_sweep(run, sweep, others) for sweep in sweeps]
    if not parsed and not swept:
        raise UcdError("nothing to compose", "name concepts or texts: ucd compose t1 t3=4 'at night'")
    if len(swept) > 2 or len({term_key(sweep.term) for sweep in swept}) < len(swept):
        raise UcdError(
            "give one sweep for a row, or two of different terms for a plane", "ucd compose --sweep t1=0:10:5"
        )
    name = "+".join([*([f"like {like.stem}"] if like else []), *texts, *sweeps])
    folder = (output or run.path / "compositions") / file_name(name)
    options: list[tuple[str, object]] = [("like", public_path(like or "")), ("output", public_path(output or ""))]
    options += [*(("sweep", public_term(sweep)) for sweep in sweeps), ("grid", grid)]
    usual = override(run.recipe.sample, {"num_images": 1 if sweeps else PICTURES})
    whole = making_command(run, "compose", list(map(public_term, texts)), options, settings, usual)
    if not like and any("@" in text and not term.place for text, term in zip(texts, parsed, strict=True)):
        whole = ""  # from Python; the command would take the text after the @ for a place
    pictures = (
        (folder / cell / f"{n:05d}.png", composition(beside(run, composed, others), settings.seed + n))
        for cell, composed in composition_cells(parsed, swept)
        for n in range(settings.num_images)
    )
    plan = PicturePlan(run, settings, folder, planned(pictures), others, device, whole)
    plan = plan if force else plan.beside()
    if (
        concept_words(plan.settings.negative_prompt or "")
        and len({used.recipe.model for used in plan.runs.values()}) > 1
    ):
        raise UcdError("runs of different models can't share a negative prompt with concepts in it", "use plain words")
    make_missing(plan, force=force, out=out)
    made: list[Picture | Sheet] = [*plan.pictures]
    if is_main() and swept:
        swept_keys = {term_key(sweep.term) for sweep in swept}
        fixed = [f"like {like.name}"] if like else []
        if not like:
            fixed = [text for text, term in zip(texts, parsed, strict=True) if term_key(term) not in swept_keys]
        made += write_sweep_sheets(plan, " + ".join(fixed), swept, force=force)
    elif is_main() and like:
        made.append(write_like_sheet(plan, like, " + ".join(texts), force=force))
    elif is_main() and grid:
        made.append(write_sheet(plan, "grid.png", " + ".join(texts), force=force))
    return made
