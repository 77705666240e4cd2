"""Every metric by its name, in the order in which they are computed and printed."""

from __future__ import annotations

from concepts_cli.metrics.assignment import AssignmentMetric
from concepts_cli.metrics.classification import ClassificationMetric
from concepts_cli.metrics.composition import CompositionMetric, RecompositionMetric
from concepts_cli.metrics.metric import Metric
from concepts_cli.metrics.naming import NamingMetric
from concepts_cli.metrics.sample_scores import SampleScores

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        SampleScores("clip", "Samples by CLIP", is_captioned=True),
        SampleScores("resnet", "Samples by ResNet"),
        AssignmentMetric(),
        ClassificationMetric(),
        NamingMetric(),
        CompositionMetric(),
        RecompositionMetric(),
    )
}
SCORED = tuple(name for name, metric in METRICS.items() if metric.is_scored)
