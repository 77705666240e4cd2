"""`ucd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from concepts_cli.cli.options import Force, Help, Json, Quiet, RunFolder, examples, output_option
from concepts_cli.cli.session import chosen_run, command_output, say_next

EXAMPLES = examples("ucd report", "ucd report --run quickstart --output quickstart.html")


def report(
    output: Annotated[Path | None, output_option("File to write. Default: report.html in the run folder.")] = None,
    force: Force = False,
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Write a run as one self-contained HTML page.

    Prints its path. Missing parts show the command that creates them.
    """
    with command_output(quiet, json, lower="close other programs") as out:
        source = chosen_run(run, out)
        from concepts_cli.commands.report import report as write

        path = write(source, output=output, force=force)
        out.result(path)
        out.document({"path": path})
        say_next(out, f"the page of {source.path}", "open it in a browser")
