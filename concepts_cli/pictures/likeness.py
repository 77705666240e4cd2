"""`ucd compose --like IMAGE`: an image's own weights as the terms of a composition, with changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from concepts_cli.core.encoding import encode_records
from concepts_cli.core.sampling import Term
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.errors import UcdError
from concepts_cli.pictures.terms import WrittenTerm, parse_term, term_key
from concepts_cli.runs.run import Run

LEAST_SHARE = 0.05  # of all weights; a concept with less is left out
ADDED = re.compile(r"(?P<term>.*)=\s*\+(?P<number>.*)")  # `t3=+2` adds to the image's own weight


def image_weights(run: Run, image: Path, device: str | None = None) -> list[float]:
    """The concept weights (K) of an image: its row if it was trained on, recognised by its content; else `encode`'s.

    Raises UcdError for an image that can't be read.
    """
    (record,) = read_images(find([image], run.fields))
    for row, trained in zip(run.weights.tolist(), run.images, strict=True):
        if trained.sha256 == record.sha256:
            return row
    (encoded,) = encode_records(run.load_model(device), [record], recipe=run.recipe, tokens=run.tokens)
    return list(encoded.weights)


def own_weights(run: Run, weights: Sequence[float], guidance_scale: float) -> dict[str, float]:
    """The weight in a composition of each concept that counts in an image with these concept weights (K)."""
    scale = guidance_scale if run.recipe.weights.constraint == "softmax" else 1.0
    total = sum(abs(weight) for weight in weights) or 1.0
    return {
        token: round(scale * weight, 4)
        for token, weight in zip(run.tokens, weights, strict=True)
        if abs(weight) >= LEAST_SHARE * total
    }


def like_terms(
    run: Run,
    weights: Sequence[float],
    changes: Sequence[WrittenTerm],
    guidance_scale: float,
    others: dict[str, Run] | None = None,
) -> list[Term]:
    """The terms of an image with these concept weights (K), changed: `t1=3` sets a weight, `t3=+2` adds to it.

    Weights that sum to one (`constraint: softmax`) are shares of the guidance scale; others are used as trained.
    Concepts with very little weight are left out. A change to something else, such as a text, a place or another run's
    concept, adds a term. Raises UcdError for terms that can't be read, and if none is left.
    """
    terms = {}
    for token, weight in own_weights(run, weights, guidance_scale).items():
        term = Term(run.recipe.concepts.prompt_of(token), weight)
        terms[term_key(term)] = term
    for change in changes:
        added = ADDED.fullmatch(change) if isinstance(change, str) else None
        term = parse_term(run, f"{added['term']}={added['number']}" if added else change, guidance_scale, others)
        before = terms[term_key(term)].weight if added and term_key(term) in terms else 0.0
        terms[term_key(term)] = replace(term, weight=before + term.weight)
    kept = [term for term in terms.values() if term.weight]
    if not kept:
        raise UcdError("nothing is left of the image", "keep some weight for one of its concepts, or add a term")
    return kept
