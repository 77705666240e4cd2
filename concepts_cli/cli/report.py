"""`ucd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepts_cli.cli.completion import complete_runs
from concepts_cli.cli.options import Force, Help, Json, Quiet, RunFolder, examples, output_option
from concepts_cli.cli.session import chosen_run, command_output, say_next

EXAMPLES = examples(
    "ucd report", "ucd report quickstart --output quickstart.html", "ucd report runs/quickstart runs/quickstart-2"
)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="Run folder, or its name in runs/; several are compared on one page. Default: that of --run.",
            autocompletion=complete_runs,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("File to write. Default: report.html in the run folder; of several, report-with-OTHERS.html."),
    ] = None,
    force: Force = False,
    run: RunFolder = None,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Write a run as one self-contained HTML page, or compare several on one.

    Prints its path. Missing parts show the command that creates them.
    """
    with command_output(quiet, json, lower="close other programs") as out:
        named = [*([run] if run else []), *(runs or [])]
        source, others = chosen_run(named[0] if named else None, out), named[1:]
        from concepts_cli.commands.report import report as write
        from concepts_cli.runs.find import find_run

        path = write(source, [find_run(other) for other in others], output=output, force=force)
        out.result(path)
        out.document({"path": path})
        what = f"{1 + len(others)} runs" if others else source.path
        say_next(out, f"the page of {what}", "open it in a browser")
