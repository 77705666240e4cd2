"""Parse the terms of a composition: concepts and texts with weights, and sweeps over weights."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from concepts_cli.core.places import Place, is_place, parse_place
from concepts_cli.core.sampling import Term
from concepts_cli.errors import UcdError, shown, text_of
from concepts_cli.pictures.names import file_name
from concepts_cli.pictures.words import CONCEPT, sentence
from concepts_cli.recipe.numbers import WEIGHT, check_number
from concepts_cli.runs.find import find_run
from concepts_cli.runs.run import Run

MOST_WEIGHTS = 50  # per sweep
SEEN = 0.25  # of the largest weight: with less a concept only shades a picture

WrittenTerm = str | tuple[str, float]  # as it is typed, or its name and weight apart


@dataclass(frozen=True)
class Sweep:
    """A term at several weights."""

    term: Term
    name: str  # as it was written
    weights: tuple[float, ...]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name}={weight:g}" for weight in self.weights]


def parse_term(run: Run, term: WrittenTerm, default_weight: float, others: dict[str, Run] | None = None) -> Term:
    """`t1`, `<t1>`, `t1=4.5`, `t1@left=5`, `other:t1` or `free text=-2` as a prompt, its weight and its place.

    In a name that is apart from its weight, an `@` is text unless a concept is before it or a place behind it. Other
    runs that it names are added to `others`.
    """
    text, weight = written(term), default_weight
    if isinstance(term, tuple):
        name, weight = term[0], _number(text, term[1])
    elif "=" in term:
        name, _, number = term.rpartition("=")
        weight = _number(text, number)
    else:
        name = term
    if re.fullmatch(f"{CONCEPT} *=.*", name.strip()):
        raise UcdError(f"{shown(text)!r} has two weights", "write a weight as t1=4.5")
    name, place = name.strip(), None
    before, at, where = name.rpartition("@")
    if at and (isinstance(term, str) or is_place(where) or re.fullmatch(CONCEPT, before.strip())):
        name, place = before.strip(), parse_place(where)
    if not name:
        raise UcdError(
            f"{shown(text)!r} names nothing", "a term is a concept or a text, then an optional @PLACE and =WEIGHT"
        )
    concept = re.fullmatch(CONCEPT, name) or _concept_of_a_run(name)
    if concept and concept["run"]:
        other = find_run(concept["run"])
        if other.path.resolve() != run.path.resolve():
            if others is not None:
                others[str(other.path)] = other
            return Term(sentence(other, concept["name"]), weight, str(other.path), place)
        name = concept["name"]
    return Term(sentence(run, name), weight, place=place)


def _concept_of_a_run(name: str) -> re.Match[str] | None:
    """`other:koala`, if there is such a run and it has such a concept; otherwise it is text with a colon."""
    concept = re.fullmatch(r"(?P<run>[^:]+):(?P<name>[\w-]+)", name)
    try:
        known = concept and f"<{concept['name']}>" in find_run(concept["run"]).tokens
    except UcdError:
        return None
    return concept if known else None


def written(term: WrittenTerm) -> str:
    """The term as it would be typed."""
    return term if isinstance(term, str) else f"{term[0]}={text_of(term[1])}"


def parse_sweep(run: Run, text: str, others: dict[str, Run] | None = None) -> Sweep:
    """Read `t1=0:10:5` as a term and five weights from 0 to 10."""
    name, _, numbers = text.rpartition("=")
    fields = numbers.split(":")
    hint = "TERM=FROM:TO:COUNT, such as t1=0:10:5 for five weights from 0 to 10"
    if not name or len(fields) != 3:
        raise UcdError(f"--sweep {shown(text)!r} is not a term with a range of weights", hint)
    first, last = (_number(text, part, hint) for part in fields[:2])
    if not re.fullmatch(r"\s*\d{1,4}\s*", fields[2]) or not 2 <= int(fields[2]) <= MOST_WEIGHTS:
        raise UcdError(f"--sweep {shown(text)!r}: {shown(fields[2])!r} is not a count from 2 to {MOST_WEIGHTS}", hint)
    weights = tuple(round(float(weight), 6) for weight in np.linspace(first, last, int(fields[2])))
    sweep = Sweep(parse_term(run, f"{name}=0", 0, others), name.strip(), weights)
    if len(set(sweep.labels)) < len(weights):
        raise UcdError(f"--sweep {shown(text)!r}: its weights are too close together", hint)
    return sweep


def composition_cells(terms: Sequence[Term], sweeps: Sequence[Sweep]) -> Iterator[tuple[str, list[Term]]]:
    """A folder name and its terms for every combination of swept weights; without a sweep, one with all terms."""
    fixed = [term for term in terms if term_key(term) not in {term_key(sweep.term) for sweep in sweeps}]
    for chosen in itertools.product(*(zip(sweep.labels, sweep.weights, strict=True) for sweep in sweeps)):
        moved = [
            dataclasses.replace(sweep.term, weight=weight) for sweep, (_, weight) in zip(sweeps, chosen, strict=True)
        ]
        yield file_name("+".join(label for label, _ in chosen)) if chosen else "", [*fixed, *moved]


def beside(run: Run, terms: Sequence[Term], others: Mapping[str, Run] | None = None) -> list[Term]:
    """The terms as a composition takes them: where several concepts with a prompt for that are to be seen, each has it.

    A picture of one thing alone and a picture of another alone have nothing in common, so a model for which "a photo
    of a dog" shows nothing else composes "a dog", which leaves room for others.
    """
    concepts = {
        (path, used.recipe.concepts.prompt_of(token)): used.recipe.concepts.prompt_beside_of(token)
        for path, used in {"": run, **(others or {})}.items()
        for token in used.tokens
        if used.recipe.concepts.prompt_beside
    }
    keys = [(term.run, term.prompt) for term in terms]
    least = SEEN * max((t.weight for key, t in zip(keys, terms, strict=True) if key in concepts), default=0)
    seen = {key for key, term in zip(keys, terms, strict=True) if key in concepts and 0 < term.weight >= least}
    if len(seen) < 2:
        return list(terms)
    return [
        dataclasses.replace(term, prompt=concepts.get(key, term.prompt)) for key, term in zip(keys, terms, strict=True)
    ]


def term_key(term: Term) -> tuple[str, str, Place | None]:
    """A key that terms share if they differ only in weight."""
    return term.run, term.prompt, term.place


def _number(text: str, number: str | float, hint: str = "write a weight as t1=4.5") -> float:
    try:
        return check_number(shown(text), number, WEIGHT)
    except UcdError as error:
        raise UcdError(error.message, hint) from None
