"""Which heat maps to draw: of generated pictures, and of real images."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from concepts_cli.core.heat_maps import Subject
from concepts_cli.core.sampling import Request, Term, anywhere, guided
from concepts_cli.data.finding import find
from concepts_cli.data.images import open_image
from concepts_cli.errors import UcdError, printable
from concepts_cli.output import Output
from concepts_cli.pictures.names import file_name
from concepts_cli.pictures.overlays import Target
from concepts_cli.pictures.terms import WrittenTerm, parse_term, written
from concepts_cli.pictures.words import bracketed, named_tokens
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run, bare_name

SMALLEST = 8  # px, of an image's shorter side


def find_subjects(run: Run, concepts: Sequence[str], prompt: str | None, words: Sequence[str]) -> dict[str, Subject]:
    """The subjects to map, by name."""
    if prompt is None:
        words = named_tokens(run, concepts or ["all"])
    else:
        words = [bracketed(run, word) for word in words]
        for word in words:
            if word.strip().lower() not in prompt.lower() or not word.strip():
                raise UcdError(f"{word!r} is not in the prompt {prompt!r}", "name words of the prompt")
        words = words or [token for token in run.tokens if token in prompt]
        if not words:
            raise UcdError(f"{prompt!r} names no concept of {run.path}", "say which words to look for, with --word")
    return {_name(word): Subject(word, run.recipe.concepts.prompt_of(word)) for word in words}


def find_terms(run: Run, terms: Sequence[WrittenTerm], default_weight: float) -> dict[str, tuple[Subject, Term]]:
    """The terms of a composition by name, each with its subject: its concept, or its whole text.

    Raises UcdError for a term that can't be read, or is another run's concept.
    """
    named: dict[str, tuple[Subject, Term]] = {}
    for given in terms:
        others: dict[str, Run] = {}
        term = parse_term(run, given, default_weight, others)
        if others:
            raise UcdError(f"{written(given)!r} is a concept of another run", "heat maps show one run: leave it out")
        word = next((token for token in run.tokens if token in term.prompt), term.prompt)
        named[_free_name(word, term, named)] = Subject(word, term.prompt), anywhere(term)
    return named


def _free_name(word: str, term: Term, taken: Container[str]) -> str:
    first = name = file_name(f"{bare_name(word)}@{term.place.name}") if term.place else _name(word)
    number = 2
    while name in taken:
        name, number = f"{first}-{number}", number + 1
    return name


def _name(word: str) -> str:
    return file_name(bare_name(word))


def generated_targets(
    subjects: Mapping[str, Subject],
    prompt: str | None,
    terms: Mapping[str, tuple[Subject, Term]],
    settings: SampleSettings,
    folder: Path,
) -> Iterator[Target]:
    """The maps of pictures to generate."""
    seeds = range(settings.seed, settings.seed + settings.num_images)
    if terms:
        place = folder / file_name("+".join(f"{name}={term.weight:g}" for name, (_, term) in terms.items()))
        for n, seed in enumerate(seeds):
            request = Request(tuple(term for _, term in terms.values()), seed)
            for index, (name, (subject, _)) in enumerate(terms.items()):
                yield Target(place / f"{n:05d}-{name}.png", name, subject, request, index)
    elif prompt:
        for n, seed in enumerate(seeds):
            request = guided(prompt, settings.guidance_scale, seed)
            for name, subject in subjects.items():
                yield Target(folder / file_name(prompt) / f"{n:05d}-{name}.png", name, subject, request)
    else:
        for name, subject in subjects.items():
            for n, seed in enumerate(seeds):
                request = guided(subject.prompt, settings.guidance_scale, seed)
                yield Target(folder / name / f"{n:05d}.png", name, subject, request)


def image_targets(
    run: Run,
    places: Sequence[Path],
    subjects: Mapping[str, Subject],
    prompt: str | None,
    guidance_scale: float,
    folder: Path,
    out: Output,
) -> tuple[list[Target], int]:
    """The maps of real images, and how many of them can't be read."""
    weights = _weights(run)
    targets, failed = [], 0
    for place in places:
        try:
            files = [image.path for image in find([place], run.fields)]
        except UcdError as error:
            out.error(UcdError(error.message))
            failed += 1
            continue
        for path in files:
            try:
                open_large_enough(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except UcdError as error:
                out.error(UcdError(f"{error.message} ({error.hint})"))
                failed += 1
                continue
            inside = folder / f"{file_name(path.stem)}-{digest[:6]}"
            for name, subject in subjects.items():
                request = guided(prompt or subject.prompt, guidance_scale, seed=0)
                weight = weights.get(digest, {}).get(subject.word)
                targets.append(Target(inside / f"{name}.png", name, subject, request, 0, path, digest, weight))
    return list({target.path: target for target in targets}.values()), failed


def open_large_enough(path: Path) -> Image.Image:
    image = open_image(path)
    if min(image.size) < SMALLEST:
        size = f"{image.width} x {image.height} px"
        raise UcdError(f"too small: {printable(path)} has {size}", f"it needs at least {SMALLEST} px per side")
    return image


def _weights(run: Run) -> dict[str, dict[str, float]]:
    """The weight of every concept in every training image, by the file's hash; empty if the run has none."""
    try:
        rows = run.weights.tolist()
        return {
            image.sha256: dict(zip(run.tokens, row, strict=True)) for image, row in zip(run.images, rows, strict=True)
        }
    except UcdError:
        return {}
