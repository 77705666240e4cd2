"""Scenes: drawn alike from the same state, truly described, with masks that fit their pixels."""

import numpy as np
import pytest

from concepts_cli.mini import atlas
from concepts_cli.mini.corpus import (
    BACKGROUNDS,
    CLASSES,
    DRAWINGS,
    HELD_OUT_BACKGROUNDS,
    SETS,
    SIZE,
    STYLES,
    claims,
    draw_scene,
)


def many(count, **parts):
    return [draw_scene(np.random.default_rng(seed), **parts) for seed in range(count)]


def test_atlas_holds_every_object_in_every_drawing():
    sprites = atlas.sprites()
    assert set(sprites) == {(name, drawing) for name in CLASSES for drawing in DRAWINGS}
    for sprite in sprites.values():
        assert sprite.shape == (SIZE, SIZE, 4)
        visible = sprite[..., 3] > 16
        assert visible.mean() > 0.1  # an object, not an empty cell
        assert max(np.ptp(np.nonzero(visible.any(axis=axis))[0]) for axis in (0, 1)) >= SIZE - 3  # as large as fits


def test_sets_are_the_papers_twenty():
    assert len(CLASSES) == len(set(CLASSES)) == 24
    names = [name for names in SETS.values() for name in names]
    assert len(names) == len(set(names)) == 20 and set(names) < set(CLASSES)


def test_same_state_same_scene():
    for one, other in zip(many(30), many(30), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.caption == other.caption and one.labels == other.labels


def test_corpus_is_mixed_as_meant():
    corpus = many(600)
    share = {
        "two objects": np.mean([len(scene.labels) == 2 for scene in corpus]),
        "night": np.mean([scene.night for scene in corpus]),
        "style": np.mean([scene.style is not None for scene in corpus]),
        "background named": np.mean([bool(claims(scene.caption) & set(BACKGROUNDS)) for scene in corpus]),
    }
    expected = {"two objects": 0.18, "night": 0.15, "style": 0.11, "background named": 0.2}
    assert share == pytest.approx(expected, abs=0.07)
    assert {scene.drawing for scene in corpus} == set(DRAWINGS)
    assert {label for scene in corpus for label in scene.labels} == set(CLASSES)


def test_captions_tell_the_truth():
    for scene in many(300):
        assert claims(scene.caption) <= set(scene.facts), scene.caption
        assert len(scene.caption.replace("-", " - ").split()) <= 14
    assert claims("a photo of a shopping cart and a car on blue") == {"shopping cart", "car", "blue"}


def test_parts_are_what_was_asked_for():
    scene = draw_scene(
        np.random.default_rng(0), labels=("zebra", "tree"), background="pink", night=True, style="", drawing="icon"
    )
    assert (scene.labels, scene.background, scene.night, scene.style, scene.drawing) == (
        ("zebra", "tree"), "pink", True, None, "icon"
    )  # fmt: skip
    assert draw_scene(np.random.default_rng(0), style="neon").style == "neon"


@pytest.mark.parametrize(
    "parts",
    [{"labels": ("unicorn",)}, {"background": "plaid"}, {"style": "baroque"}, {"drawing": "fresco"}, {"labels": ()}],
)
def test_unknown_parts_are_refused(parts):
    with pytest.raises(ValueError):
        draw_scene(np.random.default_rng(0), **parts)


def test_masks_agree_with_the_pixels():
    """Where no mask is, one sees the background: a row of it has one colour, up to the objects' soft edges."""
    for scene in many(60, style="", night=False):
        assert scene.masks.shape == (len(scene.labels), SIZE, SIZE) and scene.masks.dtype == bool
        assert (scene.masks.sum(axis=0) <= 1).all()  # one object is in front
        assert all(0.02 < mask.mean() < 0.8 for mask in scene.masks)
        empty = ~scene.masks.any(axis=0)
        for _ in range(2):  # two pixels away from any object
            padded = np.pad(empty, 1, constant_values=True)
            empty = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & padded[1:-1, 1:-1]
        for pixels, row in zip(scene.image, empty, strict=True):
            if row.any():
                median = np.median(pixels[row].astype(int), axis=0)
                assert (np.abs(pixels[row] - median).max(axis=1) <= 2).mean() > 0.5


def test_night_is_darker_and_bluer():
    day, night = (draw_scene(np.random.default_rng(5), labels=("dog",), style="", night=n).image for n in (False, True))
    assert night.mean() < 0.65 * day.mean()
    assert night[..., 2].mean() / night.mean() > day[..., 2].mean() / day.mean()


def test_held_out_backgrounds_are_never_trained_on():
    assert not set(BACKGROUNDS) & set(HELD_OUT_BACKGROUNDS)
    assert all(scene.background in BACKGROUNDS for scene in many(100))
    assert all(scene.background in HELD_OUT_BACKGROUNDS for scene in many(20, held_out=True))


def test_filters_keep_the_shape_and_change_the_picture():
    plain = draw_scene(np.random.default_rng(1), labels=("car",), style="", night=False).image
    for style in STYLES:
        image = draw_scene(np.random.default_rng(1), labels=("car",), style=style, night=False).image
        assert image.shape == plain.shape and np.abs(image.astype(int) - plain).mean() > 3
