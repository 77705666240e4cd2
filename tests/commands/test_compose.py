"""`compose`: terms, and the pictures of their composition."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from concepts_cli.commands.compose import compose, parse_term
from concepts_cli.core.sampling import Term
from concepts_cli.errors import UcdError
from concepts_cli.output import Output


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("t1", Term("a photo of a <t1>", 7.5)),
        ("<t2>=3", Term("a photo of a <t2>", 3.0)),
        ("t2=-1.5", Term("a photo of a <t2>", -1.5)),
        ("at night", Term("at night", 7.5)),
        ("a = b=2", Term("a = b", 2.0)),
        ("<t1> in <t2>'s snow=2", Term("<t1> in <t2>'s snow", 2.0)),
    ],
)
def test_terms(tiny_run, text, term):
    assert parse_term(tiny_run, text, 7.5) == term


@pytest.mark.parametrize("text", ["t9", "T9", "<sofa>", "a <t9> in snow", "t1=much", "t1=", "=3", "t1=nan", "t1=inf"])
def test_terms_that_mean_nothing_are_refused(tiny_run, text):
    with pytest.raises(UcdError):
        parse_term(tiny_run, text, 7.5)


def test_a_composition_is_made_and_says_what_it_is(tiny_run):
    settings = dataclasses.replace(tiny_run.recipe.sample, num_images=2)
    made = compose(tiny_run, ["t1", "t2=-2"], settings=settings, grid=True, device="cpu", out=Output(quiet=True))
    assert len(made) == 3
    with Image.open(made[1].path) as picture:
        assert picture.text["prompt"] == "7.5 * 'a photo of a <t1>' + -2 * 'a photo of a <t2>'"
        assert picture.text["seed"] == "1"
