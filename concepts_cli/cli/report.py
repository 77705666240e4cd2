"""`ucd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from concepts_cli.cli.options import Force, Json, Quiet, RunFolder, output_option
from concepts_cli.cli.session import command_output


def report(
    output: Annotated[Path | None, output_option("Where to write. Default: report.html in the run folder.")] = None,
    force: Force = False,
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a run as one HTML page that needs nothing else. Prints its path."""
    with command_output(quiet, json) as out:
        from concepts_cli.commands.report import report as write
        from concepts_cli.runs.find import find_run

        path = write(find_run(run), output=output, force=force)
        out.result(path)
        out.document({"path": path})
