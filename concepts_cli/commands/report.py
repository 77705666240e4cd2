"""`ucd report`: a run as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from concepts_cli.report.page import Page
from concepts_cli.runs.files import check_file, write_text
from concepts_cli.runs.run import Run


def report(run: Run, *, output: Path | None = None, force: bool = False) -> Path:
    """Write the page to report.html in the run's folder, or to `output`, and return its path.

    The run's own page is always replaced. Raises UcdError for an unfinished run, and for another file that exists
    already, unless `force`.
    """
    path = output or run.path / "report.html"
    if output and output.is_dir():
        path = output / "report.html"
    check_file(path, force=force or not output)
    write_text(path, Page(run).render().encode("utf-8", "backslashreplace").decode())  # names may be no valid text
    return path
