"""The method and its rivals, with the settings that each needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

COMPOSED, RANDOM_START, OUTSIDE_KMEANS = "composed", "random-start", "ti-outside-kmeans"
# As the paper's Table 1 has them, and k-means over features of a judge that has never seen the built-in world.
BASELINES = ("textual-inversion", "ti-kmeans", "ti-clip-kmeans", OUTSIDE_KMEANS)
METHODS = (*BASELINES, COMPOSED)
# Their clusters alone, without any training.
CLUSTERINGS = {"kmeans-pixels": "ti-kmeans", "kmeans-clip": "ti-clip-kmeans", "kmeans-outside": OUTSIDE_KMEANS}
OUTSIDE = "-outside"
FROM_RANDOM_WORDS = (
    *("concepts.start=table", "concepts.initial_spread=3", "train.max_steps=240", "train.revive_every=20"),
    *("train.learning_rate=5e-3", "train.weights_learning_rate=0.2"),
)


def settings_of(method: str) -> list[str]:
    """What a recipe needs for this method."""
    if method == RANDOM_START:
        return list(FROM_RANDOM_WORDS)
    return [f"train.method={CLUSTERINGS.get(method, method).replace(OUTSIDE, '')}"]


@contextmanager
def looking(method: str) -> Iterator[None]:
    """In this block k-means looks at what the method says it does."""
    if CLUSTERINGS.get(method, method) != OUTSIDE_KMEANS:
        yield
        return
    from tests.bench.outside_judge import outside_features  # its weights are a package of their own

    with patch("concepts_cli.training.clustering._pixels", outside_features):
        yield
