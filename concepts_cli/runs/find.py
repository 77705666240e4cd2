"""Find the run that a command works on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from concepts_cli.errors import UcdError, did_you_mean, shown
from concepts_cli.runs.run import CONCEPTS, Run

RUNS = Path("runs")


def find_run(given: str | Path | None = None) -> Run:
    """The run `given`, or $UCD_RUN, or the newest in ./runs. Raises UcdError if there is none."""
    given = given or os.environ.get("UCD_RUN")
    if given:
        for path in (Path(given), RUNS / given):
            if (run := Run(path)).exists():
                run.check_links()
                return run
        known = [run.path.name for run in all_runs()]
        otherwise = "a run folder contains a recipe.yaml"
        hint = did_you_mean(Path(given).name, known, prefix=f"{RUNS}{os.sep}", otherwise=otherwise)
        raise UcdError(f"no run at {shown(given, 300)}", hint)
    runs = all_runs()
    if not runs:
        raise UcdError("there are no runs here yet", "train one with `ucd train quickstart`, or name one with --run")
    runs[-1].check_links()
    return runs[-1]


def all_runs() -> list[Run]:
    """The finished runs in ./runs, newest last."""
    finished = []
    for path in RUNS.glob(f"*/{CONCEPTS}"):
        with suppress(OSError):  # it may be deleted meanwhile
            if Run(path.parent).exists():
                finished.append((path.stat().st_mtime_ns, path.parent))
    return [Run(path) for _, path in sorted(finished)]
