"""What a composition is to show: its terms, read and planned as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from concepts_cli.core.sampling import composition
from concepts_cli.errors import UcdError
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import elsewhere, making_command
from concepts_cli.pictures.likeness import image_weights, like_terms
from concepts_cli.pictures.names import file_name, public_term
from concepts_cli.pictures.plan import PicturePlan, planned
from concepts_cli.pictures.terms import (
    Sweep,
    WrittenTerm,
    beside,
    composition_cells,
    parse_sweep,
    parse_term,
    term_key,
    written,
)
from concepts_cli.pictures.words import concept_words
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
from concepts_cli.runs.run import Run


@dataclass(frozen=True)
class Composed:
    """A composition's plan and sweeps; `title` names its terms, `fixed` those that no sweep varies."""

    plan: PicturePlan
    sweeps: list[Sweep]
    title: str
    fixed: str


def plan_composition(
    run: Run,
    terms: Sequence[WrittenTerm],
    *,
    sweeps: Sequence[str] = (),
    like: Path | None = None,
    settings: SampleSettings,
    usual_images: int,
    output: Path | None = None,
    grid: bool = False,
    device: str | None = None,
) -> Composed:
    """Plan `settings.num_images` pictures of a composition, which `ucd compose` describes; the command in their
    metadata leaves out the number of images if it is `usual_images`.

    Raises UcdError for an unknown run or concept, a weight that is not a number, and a negative prompt that models of
    several kinds can't share.
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
    usual_folder = run.path / "compositions"
    folder = (output or usual_folder) / file_name(name)
    options: list[tuple[str, object]] = [("like", public_path(like or "")), ("output", elsewhere(output, usual_folder))]
    options += [*(("sweep", public_term(sweep)) for sweep in sweeps), ("grid", grid)]
    usual = override(run.recipe.sample, {"num_images": usual_images})
    whole = making_command(run, "compose", list(map(public_term, texts)), options, settings, usual)
    if not like and any("@" in text and not term.place for text, term in zip(texts, parsed, strict=True)):
        whole = ""  # from Python; the command would take the text after the @ for a place
    pictures = (
        (folder / cell / f"{n:05d}.png", composition(beside(run, composed, others), settings.seed + n))
        for cell, composed in composition_cells(parsed, swept)
        for n in range(settings.num_images)
    )
    plan = PicturePlan(run, settings, folder, planned(pictures), others, device, whole)
    if (
        concept_words(plan.settings.negative_prompt or "")
        and len({used.recipe.model for used in plan.runs.values()}) > 1
    ):
        raise UcdError("runs of different models can't share a negative prompt with concepts in it", "use plain words")
    swept_keys = {term_key(sweep.term) for sweep in swept}
    fixed = [f"like {like.name}"] if like else []
    if not like:
        fixed = [text for text, term in zip(texts, parsed, strict=True) if term_key(term) not in swept_keys]
    return Composed(plan, swept, " + ".join(texts), " + ".join(fixed))
