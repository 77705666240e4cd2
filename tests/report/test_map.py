"""The map of a report: what has similar weights is near, and the same weights are the same map."""

from __future__ import annotations

import numpy as np
import pytest

from concepts_cli.report.map import weight_map


def blocks(each: int, concepts: int, noise: float = 0.05) -> np.ndarray:
    """Weights of `each` images per concept, mostly of it."""
    rng = np.random.default_rng(0)
    return (np.repeat(np.eye(concepts), each, axis=0) + noise * rng.random((each * concepts, concepts))).astype("f4")


@pytest.mark.parametrize("scale", [1, 5])
def test_images_are_near_their_concept(scale):
    found = weight_map(scale * blocks(8, 4))
    images, concepts = np.array(found.images), np.array(found.concepts)
    distances = np.linalg.norm(images[:, None] - concepts[None], axis=2)
    assert (distances.argmin(axis=1) == np.repeat(np.arange(4), 8)).all()
    assert images.min() >= 0 and images.max() <= 100


def test_the_same_weights_are_the_same_map():
    assert weight_map(blocks(5, 3)) == weight_map(blocks(5, 3))


@pytest.mark.parametrize("weights", [np.zeros((3, 1)), np.ones((40, 2)), np.zeros((0, 2)), np.ones((1, 1))])
def test_too_few_different_points_are_no_map(weights):
    assert weight_map(weights.astype("f4")) is None


def test_negative_weights_and_images_without_any_are_on_it():
    weights = np.concatenate([blocks(4, 3), -blocks(1, 3), np.zeros((2, 3), "f4")])
    places = np.array(weight_map(weights).images)
    assert len(places) == 17 and np.isfinite(places).all()
