"""Evaluation results as tables of about 60 columns; `evaluation.json` has every figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Table = tuple[str, list[str], list[list[str]]]  # title, columns, rows

MEASURES = {
    "accuracy": "accuracy",
    "kl": "KL",
    "kl_reverse": "KL, reversed",
    "matched_accuracy": "matched accuracy",
    "purity": "purity",
    "ari": "ARI",
    "nmi": "NMI",
    "clip_score": "CLIP score",
    "diversity": "diversity",
    "both_seen": "both concepts seen",
    "agreement": "same concepts seen when generated again",
    "overlap": "concepts seen in both / in either",
}
SHARES = {"accuracy", "matched_accuracy", "purity", "kmeans", "logistic", "both_seen", "agreement", "overlap"}


def tables(metrics: dict[str, Any]) -> list[Table]:
    """The tables of what `evaluate` computed."""
    compared = {name: result for name, result in metrics.items() if name in ("clip", "resnet", "assignment")}
    tables_ = []
    if compared:
        tables_ += [_measures(compared), _concepts(compared)]
    if "classification" in metrics:
        tables_.append(_classification(metrics["classification"]))
    if "naming" in metrics:
        tables_ += _naming(metrics["naming"])
    together: dict[str, Any] = {name: metrics[name] for name in ("composition", "recomposition") if name in metrics}
    if together:
        tables_.append(_measures(together))
    if "composition" in metrics:
        tables_.append(_pairs(metrics["composition"]))
    return tables_


def figure(measure: str, value: float | None) -> str:
    """Format a figure: shares in percent; a KL that is null in JSON is infinite."""
    if value is None:
        return "∞" if measure.startswith("kl") else ""
    if measure in SHARES:
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if measure == "clip_score" else f"{value:.4f}"


def interval(measure: str, bounds: Sequence[float | None] | None) -> str:
    """A confidence interval to follow its figure, without the unit again; empty if there is none."""
    if not bounds:
        return ""
    low, high = (figure(measure, bound).removesuffix("%") for bound in bounds)
    return f" {low}–{high}" if low != high else ""


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


def _classification(result: dict[str, Any]) -> Table:
    rows = []
    for name, scores in result["features"].items():
        cells = [figure(by, scores[by]) + interval(by, scores["intervals"].get(by)) for by in ("kmeans", "logistic")]
        rows.append([name, str(scores["dimensions"]), *cells])
    title = f"Classification of {result['images']} held-out images, with 95% intervals"
    return title, ["features", "size", "k-means", "logistic regression"], rows


def _naming(result: dict[str, Any]) -> list[Table]:
    rows = []
    for name, concept in result["concepts"].items():
        seen = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in concept["seen"])
        near = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in concept["neighbours"][:3])
        rows.append([name, seen, near, _state(concept)])
    return [
        ("Names", ["concept", "samples look like", "word's neighbours", "state"], rows),
        ("", ["advice"], [[result["advice"]]]),
    ]


def _pairs(result: dict[str, Any]) -> Table:
    """How often both concepts of each pair are seen."""
    names = list(result["concepts"])
    labels = [name if word is None else f"{name} {word}" for name, word in result["concepts"].items()]
    rows = [
        [label, *(figure("both_seen", share) for share in row)]
        for label, row in zip(labels, result["matrix"], strict=True)
    ]
    return "Both seen, of each pair", ["", *names], rows


def _state(concept: dict[str, Any]) -> str:
    states = (
        ["dead"] * concept["dead"] + ["mixed"] * concept["mixed"] + [f"same as {other}" for other in concept["same_as"]]
    )
    return ", ".join(states) or "in use"


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
