"""What the shell offers on Tab: recipes, runs, concepts and settings. Imports no torch: files' headers are enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from concepts_cli.errors import UcdError
from concepts_cli.paths import IMAGE_FILES


def complete_recipes(incomplete: str) -> list[str]:
    """Shipped recipes by name, YAML files, and files that hold or list images."""
    from concepts_cli.recipe import shipped_recipes

    shipped = [] if "/" in incomplete else [name for name in shipped_recipes() if name.startswith(incomplete)]
    return [*shipped, *_paths(incomplete, suffixes=(".yaml", ".yml", *IMAGE_FILES))]


def complete_settings(incomplete: str) -> list[str]:
    """Every key of a recipe, for `--set KEY=VALUE`; after the `=`, the values of a setting that allows only a few."""
    from concepts_cli.recipe import Recipe
    from concepts_cli.recipe.fields import leaves

    settings = leaves(Recipe)
    key, given, _ = incomplete.partition("=")
    words = [f"{key}={value}" for value in _values(settings.get(key))] if given else [f"{key}=" for key in settings]
    return [word for word in words if word.startswith(incomplete)]


def complete_files(incomplete: str) -> list[str]:
    """Files and folders."""
    return _paths(incomplete, suffixes=None)


def complete_runs(incomplete: str) -> list[str]:
    """Finished runs by their name in runs/, and folders."""
    from concepts_cli.runs.find import all_runs

    names = [run.path.name for run in reversed(all_runs()) if run.path.name.startswith(incomplete)]
    return names or _paths(incomplete)


def complete_concepts(ctx: typer.Context, incomplete: str) -> list[str]:
    """The concepts of the command's run, and `all`."""
    return [name for name in [*_concepts(_run(ctx)), "all"] if name.startswith(incomplete)]


def complete_terms(ctx: typer.Context, incomplete: str) -> list[str]:
    """The concepts of the command's run; once `RUN:` is typed, those of that run."""
    run, colon, _ = incomplete.rpartition(":")
    names = [f"{run}{colon}{name}" for name in _concepts(run if colon else _run(ctx))]
    if not colon:
        names += [f"{name}:" for name in complete_runs(incomplete) if "/" not in name]
    return [name for name in names if name.startswith(incomplete)]


def _run(ctx: typer.Context) -> str | None:
    """What was given as --run."""
    given = ctx.params.get("run")
    return given[0] if isinstance(given, (list, tuple)) and given else given or None


def _concepts(run: str | None) -> list[str]:
    """`t1`, `t2`, … as the run's file names them; empty if there is no such run."""
    from concepts_cli.runs.contents import read_tokens
    from concepts_cli.runs.find import find_run
    from concepts_cli.runs.run import CONCEPTS, bare_name

    try:
        return [bare_name(token) for token in read_tokens(find_run(run).path / CONCEPTS)]
    except (UcdError, OSError):
        return []


def _values(kind: Any) -> list[str]:
    """What a setting of this type may be, if that is one of a few words."""
    from concepts_cli.recipe.fields import choices

    return ["true", "false"] if kind is bool else list(choices(kind))


def _paths(incomplete: str, suffixes: tuple[str, ...] | None = ()) -> list[str]:
    """Folders, and files with one of `suffixes` or with any, that begin as typed."""
    folder, _, start = incomplete.rpartition("/")
    root = Path(os.path.expanduser(folder) if folder else "/" if incomplete.startswith("/") else ".")

    def matches() -> Iterator[str]:
        for path in sorted(root.iterdir()):
            shown = incomplete[: len(incomplete) - len(start)] + path.name
            if not path.name.startswith(start) or (path.name.startswith(".") and not start):
                continue
            if path.is_dir():
                yield f"{shown}/"
            elif suffixes is None or path.suffix in suffixes:
                yield shown

    try:
        return list(matches())
    except OSError:
        return []
