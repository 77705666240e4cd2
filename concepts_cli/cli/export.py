"""`ucd export`."""

from __future__ import annotations

from typing import Annotated

from concepts_cli.cli.options import (
    WHAT,
    Concept,
    Force,
    Help,
    Json,
    OutputFolder,
    Quiet,
    RunFolder,
    examples,
    one_of,
)
from concepts_cli.cli.session import chosen_run, command_output, say_next
from concepts_cli.models import TOOLS

EXAMPLES = examples("ucd export --for comfyui", "ucd export --for a1111 --concept t1 --output embeddings/")


def export(
    for_: Annotated[str, one_of("--for", *TOOLS, help=f"Tool: {', '.join(TOOLS)}.", panel=WHAT)],
    concept: Concept = None,
    output: OutputFolder = None,
    force: Force = False,
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Write concepts as files that other tools load.

    Prints one path per concept.
    """
    with command_output(quiet, json, lower="close other programs") as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.export import export as write
        from concepts_cli.commands.export import how_to_use

        paths = write(source, tool=for_, concepts=concept or (), output=output, force=force)
        for path in paths:
            out.result(path)
        out.document({"run": source.path, "files": paths})
        say_next(out, f"concepts of {source.path}, for {for_}", how_to_use(for_, paths[0]))
