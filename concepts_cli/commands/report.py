"""`ucd report`: a run, or several side by side, as one self-contained HTML page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from concepts_cli.recipe.loading import LONGEST_NAME
from concepts_cli.report.comparison import Comparison
from concepts_cli.report.page import Page
from concepts_cli.runs.files import check_file, write_text
from concepts_cli.runs.run import Run


def report(run: Run, others: Sequence[Run] = (), *, output: Path | None = None, force: bool = False) -> Path:
    """Write the page to report.html in the run's folder, or to `output`, and return its path.

    With `others` it compares all of them, in report-with-OTHERS.html. The run's own pages are always replaced. Raises
    UcdError for an unfinished run, and for another file that exists already, unless `force`.
    """
    name = f"report-with-{_named_together(others)}.html" if others else "report.html"
    path = output or run.path / name
    if output and output.is_dir():
        path = output / name
    check_file(path, force=force or not output)
    page = Comparison([run, *others]) if others else Page(run)
    write_text(path, page.render().encode("utf-8", "backslashreplace").decode())  # names may be no valid text
    return path


def _named_together(runs: Sequence[Run]) -> str:
    """The names of runs in one, or their number and a hash of the names if that is too long for a file."""
    names = "-".join(run.name for run in runs)
    raw = names.encode("utf-8", "surrogateescape")
    return names if len(raw) <= LONGEST_NAME else f"{len(runs)}-runs-{hashlib.sha256(raw).hexdigest()[:8]}"
