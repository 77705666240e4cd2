"""Scenes: drawn alike from the same state, truly described, with masks that fit their pixels."""

import numpy as np
import pytest

from concepts_cli.mini import atlas
from concepts_cli.mini.captions import (
    BACKGROUNDS,
    CLASSES,
    DRAWINGS,
    MOST_PARTS,
    MOST_WORDS,
    claims,
    draw_caption,
    draw_parts,
)
from concepts_cli.mini.corpus import HELD_OUT_BACKGROUNDS, MOST_COVERED, SETS, SIDES, SIZE, draw_scene
from concepts_cli.mini.filters import STYLES


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
    corpus = many(800)
    counts = np.array([len(scene.labels) for scene in corpus])
    named = [claims(scene.caption) for scene in corpus]
    share = {
        "one object": np.mean(counts == 1),
        "two objects": np.mean(counts == 2),
        "three objects": np.mean(counts == 3),
        "night": np.mean([scene.facts.night for scene in corpus]),
        "style": np.mean([scene.facts.style is not None for scene in corpus]),
        "background named": np.mean([bool(names & set(BACKGROUNDS)) for names in named]),
        "drawing named": np.mean([bool(names & set(DRAWINGS)) for names in named]),
    }
    expected = {
        "one object": 0.5,
        "two objects": 0.35,
        "three objects": 0.15,
        "night": 0.15,
        "style": 0.1,
        "background named": 0.3,
        "drawing named": 0.18,
    }
    assert share == pytest.approx(expected, abs=0.07)
    assert {scene.facts.drawing for scene in corpus} == set(DRAWINGS)
    assert {label for scene in corpus for label in scene.labels} == set(CLASSES)


def test_only_captions_without_a_kind_of_picture_leave_objects_out():
    """So "a photo of a dog" shows nothing else, and "a dog" is true of every scene with a dog."""
    for count in (2, 3):
        open_ones = []
        for scene in many(1500):
            named = len(claims(scene.caption) & set(CLASSES))
            if len(scene.labels) != count or scene.facts.style or named == 0:
                continue
            if scene.caption.startswith(("a photo of", *(f"a {drawing} of" for drawing in DRAWINGS))):
                assert named == count, scene.caption
            else:
                open_ones.append(named)
        assert {1, count} <= set(open_ones)
        assert 0.2 < np.mean([n < count for n in open_ones]) < 0.8


def test_captions_tell_the_truth():
    for scene in many(300):
        rng = np.random.default_rng(0)
        for caption in [scene.caption, *(draw_caption(rng, scene.facts) for _ in range(5))]:
            assert claims(caption) <= scene.facts.names, caption
            assert len(caption.replace("-", " - ").split()) <= MOST_WORDS
    assert claims("a photo of a shopping cart and a car on blue") == {"shopping cart", "car", "blue"}


def test_the_parts_of_a_scene_say_together_what_the_whole_says():
    for scene in many(200):
        whole, *parts = draw_parts(np.random.default_rng(len(scene.caption)), scene.facts)
        assert set(scene.labels) <= claims(whole) <= scene.facts.names
        assert claims(whole) - set(DRAWINGS) == set().union(*map(claims, parts)) - set(DRAWINGS)
        assert len(scene.labels) <= len(parts) <= MOST_PARTS
        assert all(len(caption.split()) <= MOST_WORDS for caption in (whole, *parts))


def test_captions_say_where_things_are():
    told = 0
    for scene in many(600):
        middles = dict(zip(scene.labels, scene.facts.middles, strict=True))
        for words, axis, sign in (
            (" left of a ", 0, -1),
            (" right of a ", 0, 1),
            (" above a ", 1, -1),
            (" below a ", 1, 1),
        ):
            if words not in scene.caption:
                continue
            before, after = scene.caption.split(words)
            first, second = (next(label for label in middles if label in part) for part in (before, after))
            assert sign * (middles[first][axis] - middles[second][axis]) > 10
            told += 1
    assert told > 20


def test_objects_are_of_every_size_anywhere_and_hardly_cover_one_another():
    for count, (low, high) in SIDES.items():
        scenes = [scene for scene in many(700, style="") if len(scene.labels) == count]
        middles = np.array([middle for scene in scenes for middle in scene.facts.middles])
        assert middles.min() < low / 2 + 4 and middles.max() > SIZE - low / 2 - 4
        shown = np.array([mask.sum() for scene in scenes for mask in scene.masks])
        assert shown.min() > 30 and shown.max() < high**2
        assert np.quantile(shown, 0.9) > 1.5 * np.quantile(shown, 0.1)
    assert MOST_COVERED < 0.1


def test_parts_are_what_was_asked_for():
    scene = draw_scene(
        np.random.default_rng(0), labels=("zebra", "tree"), background="pink", night=True, style="", drawing="icon"
    )
    facts = scene.facts
    assert (scene.labels, facts.background, facts.night, facts.style, facts.drawing) == (
        ("zebra", "tree"), "pink", True, None, "icon"
    )  # fmt: skip
    assert facts.names == {"zebra", "tree", "pink", "night", "icon"}
    neon = draw_scene(np.random.default_rng(0), style="neon", background="pink").facts
    assert neon.style == "neon" and "pink" not in neon.names  # nobody could tell


@pytest.mark.parametrize(
    "parts",
    [
        {"labels": ("unicorn",)},
        {"background": "plaid"},
        {"style": "baroque"},
        {"drawing": "fresco"},
        {"labels": ()},
        {"labels": CLASSES[:4]},
    ],
)
def test_unknown_parts_are_refused(parts):
    with pytest.raises(ValueError):
        draw_scene(np.random.default_rng(0), **parts)


def test_a_scene_has_room_for_three():
    with pytest.raises(ValueError, match="one to three"):
        draw_scene(np.random.default_rng(0), labels=CLASSES[:4])


def test_masks_agree_with_the_pixels():
    """Where no mask is, one sees the background: a row of it has one colour, up to the objects' soft edges."""
    for scene in many(60, style="", night=False):
        assert scene.masks.shape == (len(scene.labels), SIZE, SIZE) and scene.masks.dtype == bool
        assert (scene.masks.sum(axis=0) <= 1).all()  # one object is in front
        assert all(0.005 < mask.mean() < 0.8 for mask in scene.masks)
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
    assert all(scene.facts.background in BACKGROUNDS for scene in many(100))
    assert all(scene.facts.background in HELD_OUT_BACKGROUNDS for scene in many(20, held_out=True))


def test_filters_keep_the_shape_and_change_the_picture():
    plain = draw_scene(np.random.default_rng(1), labels=("car",), style="", night=False).image
    for style in STYLES:
        image = draw_scene(np.random.default_rng(1), labels=("car",), style=style, night=False).image
        assert image.shape == plain.shape and np.abs(image.astype(int) - plain).mean() > 3
