"""The commands that made a run, or would make what is missing from it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from concepts_cli.paths import public_path
from concepts_cli.runs.files import png_text
from concepts_cli.runs.run import Run


def command(run: Run, verb: str, *arguments: str) -> str:
    """`ucd VERB …` for this run, quoted for a shell."""
    return shlex.join(["ucd", verb, *arguments, "--run", public_path(run.path)])


def sample_command(run: Run, files: Sequence[Path]) -> str:
    """The command that made the samples, according to the metadata of one concept's `files`."""
    options = ["--concept", "all"]
    if files:
        metadata, asked = png_text(files[0]), run.recipe.sample
        options += ["--num-images", str(len(files))] if len(files) != asked.num_images else []
        options += changed_options(metadata, run, "steps", "guidance_scale", "scheduler", "seed")
    return command(run, "sample", *options)


def changed_options(metadata: Mapping[str, str], run: Run, *names: str) -> list[str]:
    """The options for those settings whose value in a picture's metadata is not the recipe's."""
    options = []
    for name in names:
        value, asked = metadata.get(name), getattr(run.recipe.sample, name)
        if value and value != (f"{asked:g}" if isinstance(asked, float) else str(asked)):
            options += [f"--{name.replace('_', '-')}", value]
    return options
