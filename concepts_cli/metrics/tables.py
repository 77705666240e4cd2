"""What was measured, as tables of some 60 columns; every figure is in `evaluation.json`."""

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
    "agreement": "made anew, same concepts seen",
    "overlap": "concepts seen in both / in either",
}
SHARES = {"accuracy", "matched_accuracy", "purity", "kmeans", "logistic", "both_seen", "agreement", "overlap"}


def tables(metrics: dict[str, Any]) -> list[Table]:
    """The tables of what `evaluate` found."""
    compared = {name: one for name, one in metrics.items() if name in ("clip", "resnet", "assignment")}
    found = []
    if compared:
        found += [_measures(compared), _concepts(compared)]
    if "classification" in metrics:
        found.append(_classification(metrics["classification"]))
    if "naming" in metrics:
        found += _naming(metrics["naming"])
    together: dict[str, Any] = {name: metrics[name] for name in ("composition", "recomposition") if name in metrics}
    if together:
        found.append(_measures(together))
    if "composition" in metrics:
        found.append(_pairs(metrics["composition"]))
    return found


def figure(measure: str, value: float | None) -> str:
    """As it is printed: shares in percent, a KL that JSON has as null as infinite."""
    if value is None:
        return "∞" if measure.startswith("kl") else ""
    if measure in SHARES:
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if measure == "clip_score" else f"{value:.4f}"


def interval(measure: str, bounds: Sequence[float | None] | None) -> str:
    """A confidence interval behind its figure, without saying the unit twice; nothing for none."""
    if not bounds:
        return ""
    low, high = (figure(measure, bound).removesuffix("%") for bound in bounds)
    return f" {low}–{high}" if low != high else ""


def _measures(metrics: dict[str, Any]) -> Table:
    """A measure a row, a metric a column."""
    rows = []
    for measure, title in MEASURES.items():
        if any(one.get(measure) is not None or measure in one.get("intervals", {}) for one in metrics.values()):
            cells = [figure(measure, one[measure]) if measure in one else "" for one in metrics.values()]
            spans = [interval(measure, one.get("intervals", {}).get(measure)) for one in metrics.values()]
            rows.append([title, *(cell + span for cell, span in zip(cells, spans, strict=True))])
    rows.append(["images", *(str(one["images"]) for one in metrics.values())])
    if any("threshold" in one for one in metrics.values()):
        limits = (f"{one['threshold']:.3g}" if "threshold" in one else "" for one in metrics.values())
        rows.append(["threshold", *limits])
    rows.append(["by", *(one["scorer"] for one in metrics.values())])
    return "Evaluation, with 95% intervals", ["measure", *metrics], rows


def _concepts(metrics: dict[str, Any]) -> Table:
    """What each concept shows by each metric: its commonest class, its share, and its match where that is another."""
    names = dict.fromkeys(name for one in metrics.values() for name in one["concepts"])
    rows = [[name, *(_shows(one["concepts"].get(name)) for one in metrics.values())] for name in names]
    return "What each concept shows", ["concept", *metrics], rows


def _shows(one: dict[str, Any] | None) -> str:
    if not one or one["best_class"] is None:
        return "nothing"
    other = f", matched to {one['matched_class'] or 'none'}" if one["matched_class"] != one["best_class"] else ""
    return f"{one['best_class']} {figure('purity', one['share'])}{other}"


def _classification(found: dict[str, Any]) -> Table:
    rows = []
    for name, one in found["features"].items():
        cells = [figure(by, one[by]) + interval(by, one["intervals"].get(by)) for by in ("kmeans", "logistic")]
        rows.append([name, str(one["dimensions"]), *cells])
    title = f"Classification of {found['images']} held-out images, with 95% intervals"
    return title, ["features", "size", "k-means", "logistic regression"], rows


def _naming(found: dict[str, Any]) -> list[Table]:
    rows = []
    for name, one in found["concepts"].items():
        seen = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in one["seen"])
        near = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in one["neighbours"][:3])
        rows.append([name, seen, near, _state(one)])
    return [
        ("Names", ["concept", "samples look like", "word's neighbours", "state"], rows),
        ("", ["advice"], [[found["advice"]]]),
    ]


def _pairs(found: dict[str, Any]) -> Table:
    """How often both concepts of each pair are seen."""
    names = list(found["concepts"])
    labels = [name if word is None else f"{name} {word}" for name, word in found["concepts"].items()]
    rows = [
        [label, *(figure("both_seen", share) for share in row)]
        for label, row in zip(labels, found["matrix"], strict=True)
    ]
    return "Both seen, of each pair", ["", *names], rows


def _state(one: dict[str, Any]) -> str:
    said = ["dead"] * one["dead"] + ["mixed"] * one["mixed"] + [f"same as {other}" for other in one["same_as"]]
    return ", ".join(said) or "in use"


def spread(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and standard deviation (of a sample) of each measure over the `metrics` of several runs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in [name for name in results[0] if all(name in result for result in results)]:
        flat = [_flat(result[metric]) for result in results]
        for measure in flat[0]:
            values = [value for one in flat if (value := one.get(measure)) is not None]
            if len(values) == len(flat):
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                one = {"mean": statistics.fmean(values), "std": deviation, "values": values}
                found.setdefault(metric, {})[measure] = one
    return found


def spread_table(found: dict[str, dict[str, dict[str, Any]]], runs: Sequence[str]) -> Table:
    rows = []
    for metric, measures in found.items():
        for measure, one in measures.items():
            kind = measure.rpartition(" ")[2]
            mean, std = figure(kind, one["mean"]), figure(kind, one["std"]).removesuffix("%")
            rows.append([metric, MEASURES.get(measure, measure), f"{mean} ± {std}"])
    return f"Spread over {len(runs)} runs: {', '.join(runs)}", ["metric", "measure", "mean ± deviation"], rows


def _flat(found: dict[str, Any]) -> dict[str, float | None]:
    """The measures of a metric; of a classification by features: `weights kmeans`, ..."""
    own = {measure: found[measure] for measure in MEASURES if measure in found}
    for name, one in found.get("features", {}).items():
        own |= {f"{name} {by}": one[by] for by in ("kmeans", "logistic")}
    return own
