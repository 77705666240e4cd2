"""`ucd runs`: the runs in ./runs, a row each."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from concepts_cli.errors import UcdError
from concepts_cli.metrics.evaluation import read_metrics
from concepts_cli.output import Output
from concepts_cli.runs.contents import read_tokens
from concepts_cli.runs.find import RUNS
from concepts_cli.runs.run import CONCEPTS, RECIPE, Run, bare_name

SCORES = {"assignment": "matched_accuracy", "clip": "accuracy", "resnet": "accuracy"}  # one measure of each


@dataclass(frozen=True)
class RunSummary:
    """A run in a row. `concepts` are its names, each with the word that naming guesses; empty if it is not finished."""

    run: str
    path: str
    model: str
    images: int
    concepts: dict[str, str | None]
    date: str  # when it was last trained
    scores: dict[str, float]


def list_runs(*, out: Output | None = None) -> list[RunSummary]:
    """The runs in ./runs, the newest first, unfinished ones too. One that can't be read is named in a warning."""
    out, found = out or Output(quiet=True), []
    for path in RUNS.glob(f"*/{RECIPE}"):
        try:
            found.append(_summary(Run(path.parent)))
        except (UcdError, OSError) as error:
            out.warn(f"{path.parent}: {error}")
    return sorted(found, key=lambda summary: summary.date, reverse=True)


def _summary(run: Run) -> RunSummary:
    finished = run.is_finished()
    changed = (run.path / (CONCEPTS if finished else RECIPE)).stat().st_mtime
    metrics = read_metrics(run) if finished else {}
    names = map(bare_name, read_tokens(run.path / CONCEPTS)) if finished else ()
    return RunSummary(
        run=run.name,
        path=str(run.path),
        model=run.recipe.model,
        images=len(run.images) if run.has_images() else 0,  # imported concepts have none
        concepts={name: _guess(metrics, name) for name in names},
        date=datetime.fromtimestamp(changed).astimezone().isoformat(" ", "seconds"),
        scores=_scores(metrics),
    )


def _guess(metrics: dict[str, dict[str, Any]], name: str) -> str | None:
    with suppress(KeyError, TypeError):
        return str(metrics["naming"]["concepts"][name]["name"])
    return None


def _scores(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    values = {metric: metrics.get(metric, {}).get(measure) for metric, measure in SCORES.items()}
    return {metric: float(value) for metric, value in values.items() if isinstance(value, int | float)}
