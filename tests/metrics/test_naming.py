"""Words for concepts, and what is dead or doubled, on cases made by hand."""

import numpy as np
import pytest

from concepts_cli.errors import UcdError
from concepts_cli.metrics.naming import (
    advice,
    dead_concepts,
    duplicate_concepts,
    nearest_words,
    seen_words,
)
from concepts_cli.metrics.words import known_words, read_words


def test_neighbours_by_direction_not_by_length():
    table = np.array([[1.0, 0], [0, 5], [3, 3], [-1, 0]])
    (found,) = nearest_words(np.array([[0.0, 0.01]]), table, ["right", "up", "both", "left"], count=3)
    assert [word.word for word in found] == ["up", "both", "right"]
    assert [word.similarity for word in found] == pytest.approx([1, 0.5**0.5, 0])


def test_samples_are_named_by_what_most_of_them_look_like():
    similarities = np.array([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.1, 0.9, 0.2], [0.0, 0.1, 0.3]])
    first, second = seen_words(similarities, np.array([0, 0, 0, 1]), ["cat", "dog", "fox"], count=2)
    assert [(word.word, word.share) for word in first] == [("cat", pytest.approx(2 / 3)), ("dog", pytest.approx(1 / 3))]
    assert first[1].similarity == pytest.approx(1.7 / 3)
    assert (second[0].word, second[0].share) == ("fox", 1)


def test_a_concept_that_no_image_wants_is_dead():
    weights = np.array([[0.9, 0.08, 0.02], [0.1, 0.88, 0.02], [0.7, 0.28, 0.02]])
    assert dead_concepts(weights) == [2]
    # Never the strongest, yet in every image, as the night is: alive.
    assert dead_concepts(np.array([[0.6, 0.0, 0.4], [0.0, 0.6, 0.4]])) == []
    assert dead_concepts(np.array([[-3.0]])) == []


def test_concepts_whose_samples_mingle_are_doubled():
    rng = np.random.default_rng(0)
    centres = np.eye(8)[[0, 1, 0]]
    owners = np.repeat(np.arange(3), 16)
    features = centres[owners] + 0.1 * rng.normal(size=(48, 8))
    ((first, second, apart),) = duplicate_concepts(features, owners)
    assert (first, second) == (0, 2) and abs(apart) < 0.1
    assert duplicate_concepts(features[::16], np.arange(3)) == []  # one sample each says nothing


def test_advice():
    names = ["t1", "t2", "t3", "t4"]
    assert advice(names, [], [], []).endswith("concepts.count=4 fits")
    assert advice(names, [3], [(0, 1, 0.0)], []) == (
        "t4 explains no training image; t1 and t2 look the same: try --set concepts.count=2"
    )
    assert advice(names, [], [(0, 1, 0.0), (2, 3, 0.0), (1, 2, 0.0)], []) == (
        "t1, t2, t3 and t4 look the same: try --set concepts.count=1"
    )
    assert "t2 shows more than one thing: try --set concepts.count=5" in advice(names, [], [], [1])


def test_lists_of_words(tmp_path):
    assert {"geyser", "mosaic", "night"} <= set(known_words(built_in=True))
    assert len(known_words(built_in=False)) > 950 and "tench" in known_words(built_in=False)
    (tmp_path / "words.txt").write_text("# mine\n red fox \n\nteapot # of clay\nteapot\n")
    assert read_words(tmp_path / "words.txt") == ["red fox", "teapot"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for name, problem in [("empty.txt", "no words"), ("gone.txt", "can't be read")]:
        with pytest.raises(UcdError, match=problem):
            read_words(tmp_path / name)
