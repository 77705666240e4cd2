"""Names of pictures: captions, and plain names of files and folders."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from concepts_cli.core.sampling import Request
from concepts_cli.data.images import SUFFIXES
from concepts_cli.paths import public_path


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


def public_term(text: str) -> str:
    """A term as it was typed, `RUN:t1@MASK.png=4.5`, in which a run and a mask name no folder of this machine."""
    name, equals, weight = text.rpartition("=") if "=" in text else (text, "", "")
    name, at, place = name.rpartition("@") if "@" in name else (name, "", "")
    run, colon, concept = name.rpartition(":")
    return f"{public_path(run)}{colon}{concept}{at}{public_path(place)}{equals}{weight}"


def file_name(text: str) -> str:
    """A plain file or folder name for a prompt; a hash distinguishes prompts that were cut or lost characters."""
    name = re.sub(r"[^\w.=-]+", "-", re.sub("[<>]", "", text)).strip("-.")
    lost = re.search(r"[^\w\s<>!-/:-@\[-`{-~]", text)  # other than letters and plain punctuation
    is_file = Path(name).suffix.lower() in SUFFIXES  # beside the folder `grid.png` there may be a sheet of that name
    if len(name) <= 60 and name and not lost and not is_file:
        return name
    return f"{name[:48] or 'prompt'}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
