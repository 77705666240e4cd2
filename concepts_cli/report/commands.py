"""The commands that made a run, or would make what is missing from it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.runs.files import png_text
from concepts_cli.runs.run import Run


def command(run: Run, verb: str, *arguments: str) -> str:
    """`ucd VERB …` for this run, quoted for a shell."""
    return shlex.join(["ucd", verb, *arguments, "--run", str(run.path)])


def sample_command(run: Run, files: Sequence[Path]) -> str:
    """The command that made the samples, according to the metadata of one concept's `files`."""
    options = ["--concept", "all"]
    if files:
        metadata, asked = png_text(files[0]), run.recipe.sample
        options += ["--num-images", str(len(files))] if len(files) != asked.num_images else []
        for key, flag in (
            ("steps", "--steps"),
            ("guidance_scale", "--guidance-scale"),
            ("scheduler", "--scheduler"),
        ):
            value = metadata.get(key)
            if value and value != (f"{getattr(asked, key):g}" if key != "scheduler" else asked.scheduler):
                options += [flag, value]
        if (seed := metadata.get("seed")) and seed != str(asked.seed):
            options += ["--seed", seed]
    return command(run, "sample", *options)
