"""The pointing game: its scores, and that the built-in model's maps win it."""

import numpy as np
import pytest
import torch

from concepts_cli.core.heat_maps import Subject
from concepts_cli.mini.corpus import CLASSES
from concepts_cli.mini.workshop.pointing import draw_scenes, measure, score
from concepts_cli.models import load_model


def test_scores_of_maps_that_are_right_wrong_and_half_right():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, :32] = True
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    right = score([left], [mask])
    assert right["pointing"] == 1 and right["iou"] > 0.95
    assert score([1 - left], [mask])["pointing"] == 0
    both = score([left, 1 - left], [mask, mask])
    assert both["pointing"] == 0.5 and both["iou"] == pytest.approx(0.5, abs=0.05)


def test_scenes_are_the_same_for_a_seed_and_hold_what_is_asked_for():
    one, again = (draw_scenes(CLASSES, objects=2, count=3, seed=1) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert len(set(a.labels)) == 2 and a.masks.any(axis=(1, 2)).all()


def test_contrasts_tell_two_objects_apart_better_than_attention():
    """A small share of the table in the README, with fewer steps."""
    subjects = {name: Subject(name, f"a photo of a {name}") for name in ("car", "tiger", "tree", "panda")}
    found = measure(load_model("mini", device="cpu"), subjects, count=8, steps=8)
    assert found["one object"]["contrast"]["pointing"] >= 0.75
    attention, contrast = found["two objects"]["attention"], found["two objects"]["contrast"]
    assert contrast["pointing"] >= 0.7 and contrast["pointing"] > attention["pointing"]
    assert contrast["iou"] > attention["iou"]
