"""Which words of a text mean concepts."""

import re

from concepts_cli.pictures.words import CONCEPT, concept_words


def test_a_concept_is_the_same_in_a_prompt_and_as_a_term():
    assert concept_words("a <t1> on <other:T2>, <sofa>, t3") == [("", "t1"), ("other", "T2"), ("", "sofa")]
    assert [bool(re.fullmatch(CONCEPT, text)) for text in ("t1", "T2", "<t3>", "other:T2", "t1 here")] == [
        *[True] * 4,
        False,
    ]
