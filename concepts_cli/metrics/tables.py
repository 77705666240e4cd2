"""Evaluation results as tables of about 60 columns; `evaluation.json` has every figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from concepts_cli.metrics.figures import MEASURES, Table, figure, interval
from concepts_cli.metrics.registry import METRICS


def tables(metrics: dict[str, Any]) -> list[Table]:
    """The tables of what `evaluate` computed: metrics that are compared share one; each may have more of its own."""
    tables_: list[Table] = []
    compared: set[str] = set()
    for name, metric in METRICS.items():
        if name not in metrics:
            continue
        if metric.compared and metric.compared not in compared:
            compared.add(metric.compared)
            columns = {other: metrics[other] for other in metrics if METRICS[other].compared == metric.compared}
            tables_.append(_measures(columns))
            if "classes" in metrics[name]:
                tables_.append(_concepts(columns))
        tables_ += metric.tables(metrics[name])
    return tables_


def _measures(metrics: dict[str, Any]) -> Table:
    """One row per measure, one column per metric."""
    rows = []
    for measure, title in MEASURES.items():
        if any(
            result.get(measure) is not None or measure in result.get("intervals", {}) for result in metrics.values()
        ):
            cells = [figure(measure, result[measure]) if measure in result else "" for result in metrics.values()]
            spans = [interval(measure, result.get("intervals", {}).get(measure)) for result in metrics.values()]
            rows.append([title, *(cell + span for cell, span in zip(cells, spans, strict=True))])
    rows.append(["images", *(str(result["images"]) for result in metrics.values())])
    if any("threshold" in result for result in metrics.values()):
        limits = (f"{result['threshold']:.3g}" if "threshold" in result else "" for result in metrics.values())
        rows.append(["threshold", *limits])
    rows.append(["by", *(result["scorer"] for result in metrics.values())])
    return "Evaluation, with 95% intervals", ["measure", *metrics], rows


def _concepts(metrics: dict[str, Any]) -> Table:
    """What each concept shows by each metric: its most common class with its share, and its match if another."""
    names = dict.fromkeys(name for result in metrics.values() for name in result["concepts"])
    rows = [[name, *(_shows(result["concepts"].get(name)) for result in metrics.values())] for name in names]
    return "What each concept shows", ["concept", *metrics], rows


def _shows(concept: dict[str, Any] | None) -> str:
    if not concept or concept["best_class"] is None:
        return "nothing"
    match = (
        f", matched to {concept['matched_class'] or 'none'}"
        if concept["matched_class"] != concept["best_class"]
        else ""
    )
    return f"{concept['best_class']} {figure('purity', concept['share'])}{match}"


def spread(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and sample standard deviation of each measure over the `metrics` of several runs."""
    over_runs: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in [name for name in results[0] if all(name in result for result in results)]:
        flat = [_flat(result[metric]) for result in results]
        for measure in flat[0]:
            values = [value for measures in flat if (value := measures.get(measure)) is not None]
            if len(values) == len(flat):
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                summary = {"mean": statistics.fmean(values), "std": deviation, "values": values}
                over_runs.setdefault(metric, {})[measure] = summary
    return over_runs


def spread_table(over_runs: dict[str, dict[str, dict[str, Any]]], runs: Sequence[str]) -> Table:
    rows = []
    for metric, measures in over_runs.items():
        for measure, summary in measures.items():
            kind = measure.rpartition(" ")[2]
            mean, std = figure(kind, summary["mean"]), figure(kind, summary["std"]).removesuffix("%")
            rows.append([metric, MEASURES.get(measure, measure), f"{mean} ± {std}"])
    return f"Spread over {len(runs)} runs: {', '.join(runs)}", ["metric", "measure", "mean ± deviation"], rows


def _flat(result: dict[str, Any]) -> dict[str, float | None]:
    """The measures of a metric; those of a classification by features, as `weights kmeans`."""
    own = {measure: result[measure] for measure in MEASURES if measure in result}
    for name, scores in result.get("features", {}).items():
        own |= {f"{name} {by}": scores[by] for by in ("kmeans", "logistic")}
    return own
