"""Words that the built-in model doesn't know are said before the work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from concepts_cli.output import Output
from concepts_cli.pictures.known_words import warn_of_unknown_words


def warned(run, capsys, *texts) -> str:
    warn_of_unknown_words(run, texts, Output())
    return capsys.readouterr().err


@pytest.fixture
def built_in_run(tiny_run):
    tiny_run.recipe = replace(tiny_run.recipe, model="mini")
    return tiny_run


def test_unknown_words_are_named_once_with_those_that_are_known(built_in_run, capsys):
    said = warned(built_in_run, capsys, "<snowman> in the snow", "Snow, a wolf at night", "wolf")
    assert said.startswith("warning: the built-in model doesn't know 'snow', 'wolf', and")
    assert "teddy bear" in said and "night" in said.split("it knows")[1]


def test_its_own_words_concepts_and_punctuation_are_known(built_in_run, capsys):
    assert warned(built_in_run, capsys, "a close-up photo of the <t1>, and a Dog at night!", "", "50%") == ""


def test_other_models_know_what_they_know(tiny_run, capsys):
    assert warned(tiny_run, capsys, "xyzzy") == ""
