"""`ucd compose`: pictures of several concepts and words at once, each with its weight (eq. 11)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.core.sampling import Request, Term
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures import Order, Picture, check_words, file_name, fill, write_sheet
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run


def compose(
    run: Run,
    terms: Sequence[str],
    *,
    settings: SampleSettings,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> list[Picture]:
    """`settings.num_images` pictures of the composition of `terms`; image n has the seed `settings.seed + n`.

    A term is a concept (`t1`) or free text, with an optional `=WEIGHT`, negative allowed. Without one its weight is
    the guidance scale. Raises UcdError for an unknown concept or a weight that is not a number.
    """
    parsed = [parse_term(run, term, settings.guidance_scale) for term in terms]
    if not parsed:
        raise UcdError("nothing to compose", "name concepts or texts: ucd compose t1 t3=4 'at night'")
    folder = (output or run.path / "compositions") / file_name("+".join(terms))
    planned = ((folder / f"{n:05d}.png", Request(tuple(parsed), settings.seed + n)) for n in range(settings.num_images))
    order = Order(run, settings, tuple(planned))
    fill(order, force=force, device=device, out=out)
    made = order.pictures
    if grid:
        made.append(write_sheet(order, folder / "grid.png"))
    return made


def parse_term(run: Run, text: str, default_weight: float) -> Term:
    """`t1`, `<t1>`, `t1=4.5` or `free text=-2` as a prompt and its weight."""
    name, weight = text, default_weight
    if "=" in text:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError as error:
            raise UcdError(f"{text!r}: {number!r} is not a number", "write a weight as t1=4.5") from error
        if not abs(weight) < float("inf"):
            raise UcdError(f"{text!r}: the weight must be finite", "write a weight as t1=4.5")
    name = name.strip()
    if not name:
        raise UcdError(f"{text!r} names nothing", "a term is a concept or a text, then an optional =WEIGHT")
    if name in run.tokens or f"<{name}>" in run.tokens or _looks_like_concept(name):
        name = default_prompt(run.recipe.concepts.property, run.token(name))
    check_words(run, name)
    return Term(name, weight)


def _looks_like_concept(name: str) -> bool:
    """`t9`, `T9` and `<anything>` are meant as concepts, known or not; every other word is free text."""
    return re.fullmatch(r"<[^<>]*>|[tT]\d+", name) is not None
