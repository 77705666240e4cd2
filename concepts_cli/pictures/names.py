"""Names of pictures: captions, and plain names of files and folders."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from concepts_cli.core.sampling import Request, Term
from concepts_cli.data.images import SUFFIXES
from concepts_cli.paths import public_path
from concepts_cli.runs.run import Run, bare_name


def caption(request: Request) -> str:
    """A plain prompt as it is; for a composition, every term with its weight, and its run if it is another one."""
    if len(request.terms) == 1 and not request.terms[0].run and not request.terms[0].place:
        return request.terms[0].prompt
    return (
        " + ".join(
            f"{term.weight:g} * {term.prompt!r}"
            + (f" of {Path(term.run).name}" if term.run else "")
            + (f" at {term.place.name}" if term.place else "")
            for term in request.terms
        )
        or "no prompt"
    )


def typed_term(term: Term, run: Run) -> str | None:
    """A term as `ucd compose` reads it: `t1=4.5`, `other:t1@left=3`. `run` is the one whose concepts it mentions.

    None for text with an `@` but no place: `ucd compose` would take what follows for a place.
    """
    concepts = {run.recipe.concepts.prompt_of(token): bare_name(token) for token in run.tokens}
    name = concepts.get(term.prompt, term.prompt)
    if "@" in name and not term.place:
        return None
    if term.run:
        name = f"{public_path(term.run)}:{name}"
    place = f"@{term.place.name}" if term.place else ""
    return f"{name}{place}={term.weight:.10g}"


def file_name(text: str) -> str:
    """A plain file or folder name for a prompt; a hash distinguishes prompts that were cut or lost characters."""
    name = re.sub(r"[^\w.=-]+", "-", re.sub("[<>]", "", text)).strip("-.")
    lost = re.search(r"[^\w\s<>!-/:-@\[-`{-~]", text)  # other than letters and plain punctuation
    is_file = Path(name).suffix.lower() in SUFFIXES  # beside the folder `grid.png` there may be a sheet of that name
    if len(name) <= 60 and name and not lost and not is_file:
        return name
    return f"{name[:48] or 'prompt'}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
