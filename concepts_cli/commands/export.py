"""`ucd export`: concepts as files that other tools load."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.models import OUTPUT, OUTPUT_TOOL, TOKEN, TOOLS, family_of
from concepts_cli.models.embeddings import vectors_of
from concepts_cli.paths import public_path
from concepts_cli.pictures.words import named_tokens
from concepts_cli.runs.files import check_file, write_safetensors
from concepts_cli.runs.run import Run, bare_name

USE = {
    "diffusers": "load them as docs/models.md shows",
    "a1111": "copy them into embeddings/; in a prompt: {name}",
    "comfyui": "copy them into models/embeddings/; in a prompt: embedding:{name}",
    "kohya": "name them in --textual_inversion_embeddings; in a prompt: {name}",
    "onetrainer": "name one as the base embedding, or as an additional one with the placeholder {name}",
}


def export(
    run: Run,
    *,
    tool: str,
    concepts: Sequence[str] = (),
    output: Path | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a safetensors file per concept, by default all, and return their paths.

    They are called RUN-CONCEPT, which most tools take for the word; those of diffusers name the word themselves. They
    go to `output`, or to exports/TOOL in the run. Raises UcdError for a tool that doesn't load embeddings of the run's
    model, for an unknown concept, and for files that exist, unless `force`.
    """
    if tool not in TOOLS:
        raise UcdError(f"no tool {tool!r}", did_you_mean(tool, TOOLS))
    model = run.recipe.model
    tools = family_of(model, revision=run.recipe.model_revision).tools
    if tool not in tools:
        hint = f"use --for {' or --for '.join(tools)}" if tools else "the files in embeddings/ hold the numbers"
        raise UcdError(f"{tool} doesn't load words for {public_path(model)}", hint)
    ending = OUTPUT if run.recipe.concepts.where == "output" else ""
    if ending and tool != OUTPUT_TOOL:
        hint = f"use --for {OUTPUT_TOOL}" if OUTPUT_TOOL in tools else "concepts.safetensors holds the numbers"
        raise UcdError(f"{tool} doesn't load words at the output of a text encoder", hint)
    tokens = named_tokens(run, concepts or ["all"])
    folder = output or run.path / "exports" / tool
    paths = {token: folder / f"{_plain(run.name)}-{bare_name(token)}.safetensors" for token in tokens}
    for path in paths.values():
        check_file(path, force=force)
    for token, path in paths.items():
        vectors = vectors_of(run.embeddings, run.tokens.index(token))
        tensors = {key.replace(TOKEN, token) + ending: vectors[encoder] for encoder, key in tools[tool].items()}
        write_safetensors(path, tensors, {"format": "pt", "token": token, "model": public_path(model)})
    return list(paths.values())


def how_to_use(tool: str, path: Path) -> str:
    """What to do with a file of `export` and its siblings, in a few words."""
    return USE[tool].format(name=path.stem)


def _plain(name: str) -> str:
    """A run's name as a part of a word in prompts."""
    return re.sub(r"[^\w-]+", "-", name)
