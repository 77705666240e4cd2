"""`ucd evaluate`: what a run's samples show, how its weights sort images, and what its concepts are, in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.registry import METRICS, SCORED
from concepts_cli.metrics.tables import spread, spread_table, tables
from concepts_cli.output import Output, plain
from concepts_cli.runs.files import write_json
from concepts_cli.runs.run import Run

ALL = "all"


def evaluate(
    run: Run,
    *,
    metrics: Sequence[str] = (),
    class_names: Sequence[str] = (),
    threshold: float | None = None,
    samples: Path | None = None,
    held_out: Sequence[str | Path] = (),
    device: str | None = None,
    out: Output,
) -> dict[str, Any]:
    """Compute `metrics` (the recipe's, when none is named; `all`: each that can be), print them, and write them to
    evaluation.json.

    `clip` and `resnet` score the run's samples, which are made if there are none, or those of another folder, a
    sub-folder for each concept; `assignment` compares the weights with the training images' labels; `classification`
    classifies labelled images by the weights that `encode` gives them; `naming` finds words for the concepts;
    `composition` composes every pair of them, and `recomposition` makes every training image anew from its weights.
    The result, in JSON's types, is {"run": …, "metrics": {name: {…}}}. Raises UcdError for metrics, class names,
    labels, samples or images that are missing or can't be used.
    """
    wanted = _known(metrics or run.recipe.evaluate.metrics, threshold)
    inputs = MetricInputs(
        run,
        class_names=class_names,
        threshold=threshold,
        samples=samples,
        held_out=held_out,
        device=device,
        out=out,
    )
    found = {metric: METRICS[metric].compute(inputs) for metric in _possible(inputs, wanted, out)}
    result = plain({"run": run.path, "metrics": found})
    write_json(run.path / "evaluation.json", result | {"metrics": _earlier(run) | result["metrics"]})
    for table in tables(result["metrics"]):
        out.table(*table)
    for caveat in dict.fromkeys(filter(None, (metric.get("caveat") for metric in result["metrics"].values()))):
        out.note(caveat)
    return result


def evaluate_runs(runs: Sequence[Run], *, out: Output, **options: Any) -> dict[str, Any]:
    """`evaluate` of several runs, such as those of one recipe with several seeds, and their spread.

    Each gets its evaluation.json. The result is {"runs": [what `evaluate` returns, …], "spread": {metric: {measure:
    {"mean": …, "std": …, "values": […]}}}}.
    """
    results = []
    for run in runs:
        out.note(f"evaluating {run.path}")
        results.append(evaluate(run, out=out, **options))
    found = spread([result["metrics"] for result in results])
    out.table(*spread_table(found, [run.name for run in runs]))
    return plain({"runs": results, "spread": found})


def _known(metrics: Sequence[str], threshold: float | None) -> tuple[str, ...]:
    """The metrics, each once. Raises UcdError for one that does not exist, and a threshold for none or several."""
    for metric in metrics:
        if metric not in (*METRICS, ALL):
            known = (*METRICS, ALL)
            raise UcdError(f"no metric {metric!r}", did_you_mean(metric, known))
    scored = [metric for metric in dict.fromkeys(metrics) if metric in SCORED]
    if threshold is not None and len(scored) != 1:
        which = " and ".join(scored) or "none of them"
        hint = "name one: --metric clip --threshold 0.3"
        raise UcdError(f"--threshold is for one of {' and '.join(SCORED)}, got {which}", hint)
    return tuple(dict.fromkeys(metrics))


def _possible(inputs: MetricInputs, wanted: Sequence[str], out: Output) -> list[str]:
    """What to compute, in order. Everything is checked before the long work; with `all`, what can't be is left out."""
    possible = []
    for metric in METRICS if ALL in wanted else wanted:
        try:
            METRICS[metric].check(inputs)
            possible.append(metric)
        except UcdError as error:
            if metric in wanted:
                raise
            out.note(f"without {metric}: {error.message}")
    return possible


def _earlier(run: Run) -> dict[str, Any]:
    """The metrics of evaluation.json, if there is one that can be read."""
    try:
        return dict(json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
