"""`ucd evaluate`: what a run's samples show, how its weights sort images, and what its concepts are, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concepts_cli.errors import UcdError, did_you_mean
from concepts_cli.metrics.evaluation import add_metrics
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.registry import METRICS, SCORED
from concepts_cli.metrics.tables import spread, spread_table, tables
from concepts_cli.output import Output, plain
from concepts_cli.paths import public_path
from concepts_cli.pictures.commands import command
from concepts_cli.recipe.numbers import SCORE, check_number
from concepts_cli.runs.run import Run

ALL = "all"


def measure(
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
    """Compute `metrics` (default: the recipe's; `all`: all that can be) and print them.

    `clip` and `resnet` score the run's samples, which are made if there are none, or another folder's, with one
    subfolder per concept; `assignment` compares the weights with the training images' labels; `classification`
    classifies labelled images by the weights that `encode` finds; `naming` finds words for the concepts; `composition`
    composes every pair of them, and `recomposition` generates every training image again from its weights. Returns, in
    JSON's types, {"run": …, "metrics": {name: {…, "command": …}}}, with the command that computes the metric alone.
    Raises UcdError for metrics, class names, labels, samples or images that are missing or can't be used.
    """
    if threshold is not None:
        check_number("threshold", threshold, SCORE)
    names = _known(metrics or run.recipe.evaluate.metrics, threshold)
    inputs = MetricInputs(
        run,
        class_names=class_names,
        threshold=threshold,
        samples=samples,
        held_out=held_out,
        device=device,
        out=out,
    )
    options = {"class-names": ",".join(class_names), "threshold": threshold, "samples": samples, "held-out": held_out}
    computed = {
        metric: METRICS[metric].compute(inputs) | {"command": _command(run, metric, options)}
        for metric in _possible(inputs, names, out)
    }
    result = plain({"run": run.path, "metrics": computed})
    for table in tables(result["metrics"]):
        out.table(*table)
    for caveat in dict.fromkeys(filter(None, (metric.get("caveat") for metric in result["metrics"].values()))):
        out.note(caveat)
    return result


def _command(run: Run, metric: str, options: Mapping[str, Any]) -> str:
    """The command that computes a metric as it was computed."""
    words = ["--metric", metric]
    for option, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [word for each in values if each not in (None, "") for word in (f"--{option}", public_path(str(each)))]
    return command(run, "evaluate", *words)


def evaluate(run: Run, *, out: Output, **options: Any) -> dict[str, Any]:
    """Measure a run, print the document of `--json`, and write evaluation.json.

    Raises what `measure` raises, and UcdError (1) if the file can't be written, once the results are printed.
    """
    result = measure(run, out=out, **options)
    out.document(result)
    add_metrics(run, result["metrics"], out)
    return result


def evaluate_runs(runs: Sequence[Run], *, out: Output, **options: Any) -> dict[str, Any]:
    """Evaluate several runs, such as several seeds of one recipe, and print their spread.

    Each gets its evaluation.json. Returns {"runs": [what `measure` returns, …], "spread": {metric: {measure: {"mean":
    …, "std": …, "values": […]}}}}. Raises what `evaluate` raises.
    """
    results, unwritten = [], []
    for run in runs:
        out.note(f"evaluating {run.path}")
        results.append(measure(run, out=out, **options))
        try:
            add_metrics(run, results[-1]["metrics"], out)
        except UcdError as error:
            unwritten.append(error)
    over_runs = spread([result["metrics"] for result in results])
    out.table(*spread_table(over_runs, [run.name for run in runs]))
    document: dict[str, Any] = plain({"runs": results, "spread": over_runs})
    out.document(document)
    if unwritten:
        raise unwritten[0]
    return document


def _known(metrics: Sequence[str], threshold: float | None) -> tuple[str, ...]:
    """The metrics, each once. Raises UcdError for an unknown one, and for a threshold that fits none or several."""
    for metric in metrics:
        if metric not in (*METRICS, ALL):
            known = (*METRICS, ALL)
            raise UcdError(f"no metric {metric!r}", did_you_mean(metric, known))
    scored = [metric for metric in dict.fromkeys(metrics) if metric in SCORED]
    if threshold is not None and len(scored) != 1:
        which = " and ".join(scored) or "none of them"
        hint = "name one: --metric clip --threshold 0.3"
        raise UcdError(f"--threshold needs one of {' and '.join(SCORED)}, got {which}", hint)
    return tuple(dict.fromkeys(metrics))


def _possible(inputs: MetricInputs, names: Sequence[str], out: Output) -> list[str]:
    """The metrics to compute, in order, all checked before any long work; `all` skips those that fail the check."""
    possible = []
    for metric in METRICS if ALL in names else names:
        try:
            METRICS[metric].check(inputs)
            possible.append(metric)
        except UcdError as error:
            if metric in names:
                raise
            out.note(f"skipping {metric}: {error.message}")
    return possible
