"""The measures that metrics share: their titles, and how their values are printed."""

from __future__ import annotations

from collections.abc import Sequence

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
