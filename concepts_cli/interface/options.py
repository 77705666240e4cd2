"""Turn options, terms and places as Python has them into those of the commands."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict

from concepts_cli.pictures.terms import WrittenTerm
from concepts_cli.recipe import SampleSettings
from concepts_cli.recipe.fields import override
from concepts_cli.runs.run import Run as RunFolder

AnyPath = str | os.PathLike[str]
Terms = Mapping[str, float] | Sequence[str]


class SampleOptions(TypedDict, total=False):
    """How pictures are made. Options default to the recipe's `sample` settings, which document them."""

    steps: int
    guidance_scale: float
    negative_prompt: str | None
    scheduler: str | None
    corrector_steps: int
    corrector_step_size: float
    eta: float
    height: int | None
    width: int | None
    precision: Literal["fp32", "fp16", "bf16"] | None
    batch_size: int
    seed: int


def sample_settings(run: RunFolder, n: int, options: Mapping[str, Any]) -> SampleSettings:
    """The recipe's settings with `n` pictures and these options. Raises UcdError for unknown and wrong options."""
    return override(run.recipe.sample, {"num_images": n, **options}, as_options=False)


def written_terms(terms: Terms) -> list[WrittenTerm]:
    """{"t1": 5} as (name, weight); what a list has is written as for the command."""
    return list(terms.items()) if isinstance(terms, Mapping) else [*several(terms)]


def several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@contextmanager
def output_folder(output: AnyPath | None) -> Iterator[Path]:
    """`output`, or a temporary folder."""
    if output is not None:
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="ucd-") as folder:
        yield Path(folder)
