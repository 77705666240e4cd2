"""What was measured, as tables of some 60 columns; every figure is in `evaluation.json`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from concepts_cli.metrics.figures import MEASURES, Table, figure, interval
from concepts_cli.metrics.registry import METRICS


def tables(metrics: dict[str, Any]) -> list[Table]:
    """The tables of what `evaluate` found: one for metrics that are compared with each other, then each one's own."""
    found: list[Table] = []
    compared: set[str] = set()
    for name, metric in METRICS.items():
        if name not in metrics:
            continue
        if metric.compared and metric.compared not in compared:
            compared.add(metric.compared)
            columns = {other: metrics[other] for other in metrics if METRICS[other].compared == metric.compared}
            found.append(_measures(columns))
            if "classes" in metrics[name]:
                found.append(_concepts(columns))
        found += metric.tables(metrics[name])
    return found


def _measures(metrics: dict[str, Any]) -> Table:
    """A measure a row, a metric a column."""
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
    """What each concept shows by each metric: its commonest class, its share, and its match where that is another."""
    names = dict.fromkeys(name for result in metrics.values() for name in result["concepts"])
    rows = [[name, *(_shows(result["concepts"].get(name)) for result in metrics.values())] for name in names]
    return "What each concept shows", ["concept", *metrics], rows


def _shows(concept: dict[str, Any] | None) -> str:
    if not concept or concept["best_class"] is None:
        return "nothing"
    other = (
        f", matched to {concept['matched_class'] or 'none'}"
        if concept["matched_class"] != concept["best_class"]
        else ""
    )
    return f"{concept['best_class']} {figure('purity', concept['share'])}{other}"


def spread(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and standard deviation (of a sample) of each measure over the `metrics` of several runs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in [name for name in results[0] if all(name in result for result in results)]:
        flat = [_flat(result[metric]) for result in results]
        for measure in flat[0]:
            values = [value for figures in flat if (value := figures.get(measure)) is not None]
            if len(values) == len(flat):
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                summary = {"mean": statistics.fmean(values), "std": deviation, "values": values}
                found.setdefault(metric, {})[measure] = summary
    return found


def spread_table(found: dict[str, dict[str, dict[str, Any]]], runs: Sequence[str]) -> Table:
    rows = []
    for metric, measures in found.items():
        for measure, summary in measures.items():
            kind = measure.rpartition(" ")[2]
            mean, std = figure(kind, summary["mean"]), figure(kind, summary["std"]).removesuffix("%")
            rows.append([metric, MEASURES.get(measure, measure), f"{mean} ± {std}"])
    return f"Spread over {len(runs)} runs: {', '.join(runs)}", ["metric", "measure", "mean ± deviation"], rows


def _flat(found: dict[str, Any]) -> dict[str, float | None]:
    """The measures of a metric; of a classification by features: `weights kmeans`, ..."""
    own = {measure: found[measure] for measure in MEASURES if measure in found}
    for name, shares in found.get("features", {}).items():
        own |= {f"{name} {by}": shares[by] for by in ("kmeans", "logistic")}
    return own
