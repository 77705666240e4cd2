"""`ucd compose`: pictures of several concepts and words at once, each with its weight (eq. 11)."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepts_cli.core.contact_sheet import contact_sheet
from concepts_cli.core.sampling import Term, composition
from concepts_cli.data.images import open_image
from concepts_cli.data.prompts import default_prompt
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.pictures import (
    Order,
    Picture,
    check_words,
    file_name,
    fill,
    negative_prompt,
    save_sheet,
    write_sheet,
)
from concepts_cli.processes import is_main
from concepts_cli.recipe import SampleSettings
from concepts_cli.run_dir import Run, find_run

CONCEPT = r"(?:(?P<run>.+):)?(?P<name><[^<>]*>|[tT]\d+)"  # `t9` and `<anything>` are meant as concepts, known or not
MOST_WEIGHTS = 50  # of a sweep


@dataclass(frozen=True)
class Sweep:
    """A term that is shown at several weights."""

    term: Term
    name: str  # as it was written
    weights: tuple[float, ...]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name}={weight:g}" for weight in self.weights]


def compose(
    run: Run,
    terms: Sequence[str],
    *,
    sweeps: Sequence[str] = (),
    settings: SampleSettings,
    output: Path | None = None,
    grid: bool = False,
    force: bool = False,
    device: str | None = None,
    out: Output,
) -> list[Picture]:
    """`settings.num_images` pictures of the composition of `terms`; image n has the seed `settings.seed + n`.

    A term is a concept (`t1`), one of another run (`runs/other:t1`, `other:t1`), or free text in the words of `run`,
    with an optional `=WEIGHT`, negative allowed. Without one its weight is the guidance scale; weight 0 leaves it out.

    A sweep, `t1=0:10:5`, takes five weights from 0 to 10 for a term, which is added when `terms` has it not. One makes
    a row of pictures, two a plane, on a labelled sheet. Raises UcdError for an unknown run or concept, a weight that is
    not a number, and runs whose models can't be composed.
    """
    others: dict[str, Run] = {}
    parsed = [parse_term(run, term, settings.guidance_scale, others) for term in terms]
    swept = [parse_sweep(run, sweep, others) for sweep in sweeps]
    if not parsed and not swept:
        raise UcdError("nothing to compose", "name concepts or texts: ucd compose t1 t3=4 'at night'")
    if len(swept) > 2 or len({_key(sweep.term) for sweep in swept}) < len(swept):
        raise UcdError("one sweep makes a row, two of different terms a plane", "ucd compose --sweep t1=0:10:5")
    folder = (output or run.path / "compositions") / file_name("+".join([*terms, *sweeps]))
    negative = negative_prompt(run, settings)
    planned = (
        (folder / cell / f"{n:05d}.png", composition(composed, settings.seed + n, negative))
        for cell, composed in _cells(parsed, swept)
        for n in range(settings.num_images)
    )
    order = Order(run, settings, tuple(planned), others)
    if negative and re.search(r"<t\d+>", negative) and len({one.recipe.model for one in order.runs.values()}) > 1:
        raise UcdError("runs of different models can't share a negative prompt with concepts in it", "use plain words")
    fill(order, force=force, device=device, out=out)
    made = order.pictures
    if is_main() and swept:
        moving = {_key(sweep.term) for sweep in swept}
        fixed = [text for text, term in zip(terms, parsed, strict=True) if _key(term) not in moving]
        made += _write_sweep(order, folder, " + ".join(fixed), swept)
    elif is_main() and grid:
        made.append(write_sheet(order, folder / "grid.png", " + ".join(terms)))
    return made


def parse_term(run: Run, text: str, default_weight: float, others: dict[str, Run] | None = None) -> Term:
    """`t1`, `<t1>`, `t1=4.5`, `other:t1` or `free text=-2` as a prompt and its weight.

    Other runs that are named are added to `others`.
    """
    name, weight = text, default_weight
    if "=" in text:
        name, _, number = text.rpartition("=")
        weight = _number(text, number)
        if re.fullmatch(f"{CONCEPT} *=.*", name.strip()):
            raise UcdError(f"{text!r} has two weights", "write a weight as t1=4.5")
    name = name.strip()
    if not name:
        raise UcdError(f"{text!r} names nothing", "a term is a concept or a text, then an optional =WEIGHT")
    concept = re.fullmatch(CONCEPT, name)
    if concept and concept["run"]:
        other = find_run(concept["run"])
        if other.path.resolve() != run.path.resolve():
            sentence = default_prompt(other.recipe.concepts.property, other.token(concept["name"]))
            if others is not None:
                others[str(other.path)] = other
            return Term(sentence, weight, str(other.path))
    if concept or f"<{name}>" in run.tokens:
        name = default_prompt(run.recipe.concepts.property, run.token(concept["name"] if concept else name))
    check_words(run, name)
    return Term(name, weight)


def parse_sweep(run: Run, text: str, others: dict[str, Run] | None = None) -> Sweep:
    """`t1=0:10:5` as a term and five weights from 0 to 10."""
    name, _, numbers = text.rpartition("=")
    parts = numbers.split(":")
    hint = "TERM=FROM:TO:COUNT, such as t1=0:10:5 for five weights from 0 to 10"
    if not name or len(parts) != 3:
        raise UcdError(f"--sweep {text!r} is no term with a range of weights", hint)
    first, last = (_number(text, part, hint) for part in parts[:2])
    if not re.fullmatch(r"\s*\d{1,4}\s*", parts[2]) or not 2 <= int(parts[2]) <= MOST_WEIGHTS:
        raise UcdError(f"--sweep {text!r}: {parts[2]!r} is no count from 2 to {MOST_WEIGHTS}", hint)
    weights = tuple(round(float(weight), 6) for weight in np.linspace(first, last, int(parts[2])))
    sweep = Sweep(parse_term(run, f"{name}=0", 0, others), name.strip(), weights)
    if len(set(sweep.labels)) < len(weights):
        raise UcdError(f"--sweep {text!r}: its weights are all but the same", hint)
    return sweep


def _cells(terms: Sequence[Term], sweeps: Sequence[Sweep]) -> Iterator[tuple[str, list[Term]]]:
    """A folder and the terms of it for every combination of swept weights; without a sweep one, of all terms."""
    fixed = [term for term in terms if _key(term) not in {_key(sweep.term) for sweep in sweeps}]
    for chosen in itertools.product(*(zip(sweep.labels, sweep.weights, strict=True) for sweep in sweeps)):
        moved = [
            dataclasses.replace(sweep.term, weight=weight) for sweep, (_, weight) in zip(sweeps, chosen, strict=True)
        ]
        yield file_name("+".join(label for label, _ in chosen)) if chosen else "", [*fixed, *moved]


def _write_sweep(order: Order, folder: Path, title: str, sweeps: Sequence[Sweep]) -> list[Picture]:
    """One sweep: a row of pictures a seed on one sheet. Two: a sheet a seed, the second sweep downwards."""
    settings = order.settings
    pictures = [open_image(path) for path, _ in order.planned]
    seeds = range(settings.num_images)
    by_seed = [pictures[n :: settings.num_images] for n in seeds]  # each in the order of the cells
    across, weights = sweeps[0].name, [f"{weight:g}" for weight in sweeps[0].weights]
    if len(sweeps) == 1:
        rows = {f"seed {settings.seed + n}": by_seed[n] for n in seeds}
        heading = {"title": f"{title} + {across}" if title else across, "headings": weights}
        return [save_sheet(order, folder / "sweep.png", contact_sheet(rows, **heading))]
    down = sweeps[1].labels
    heading = {"title": " + ".join(filter(None, [title, sweeps[1].name, across])), "headings": weights}
    return [
        save_sheet(
            order,
            folder / f"sweep-{n:05d}.png",
            contact_sheet(
                {label: by_seed[n][row :: len(down)] for row, label in enumerate(down)},
                detail=f"seed {settings.seed + n}",
                **heading,
            ),
        )
        for n in seeds
    ]


def _key(term: Term) -> tuple[str, str]:
    """What makes two terms the same, whatever their weights."""
    return term.run, term.prompt


def _number(text: str, number: str, hint: str = "write a weight as t1=4.5") -> float:
    try:
        value = float(number)
    except ValueError as error:
        raise UcdError(f"{text!r}: {number!r} is not a number", hint) from error
    if not abs(value) < float("inf"):
        raise UcdError(f"{text!r}: the weight must be finite", hint)
    return value
