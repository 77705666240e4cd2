"""A run's evaluation.json: the metrics that were computed so far."""

from __future__ import annotations

from typing import Any

from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.runs.files import write_json
from concepts_cli.runs.lock import locked
from concepts_cli.runs.reading import damaged, read_object
from concepts_cli.runs.run import EVALUATION, Run

WAIT_SECONDS = 60  # for another process that writes the file, too


def read_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """The results by metric; empty without the file. Raises UcdError if it is damaged."""
    path, hint = run.path / EVALUATION, "`ucd evaluate` replaces it"
    try:
        metrics = read_object(path, hint).get("metrics")
    except FileNotFoundError:
        return {}
    if not isinstance(metrics, dict) or not all(isinstance(result, dict) for result in metrics.values()):
        raise damaged(path, "it holds no metrics", hint)
    return metrics


def add_metrics(run: Run, metrics: dict[str, Any], out: Output) -> None:
    """Write results, in JSON's types, beside those of other metrics. Raises UcdError (1) if they can't be written.

    Processes that evaluate the run at the same time take turns. A damaged file is replaced, with a warning.
    """
    try:
        run.check_there()
        with locked(run.path, EVALUATION, wait=WAIT_SECONDS):
            try:
                earlier = read_metrics(run)
            except UcdError as error:
                out.warn(f"{error.message}; it is replaced")
                earlier = {}
            write_json(run.path / EVALUATION, {"run": run.name, "metrics": earlier | metrics})
    except UcdError as error:
        raise UcdError(f"{EVALUATION} is not written: {error.message}", "the results are above", exit_code=1) from error
