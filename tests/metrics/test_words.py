"""The words that concepts are named with."""

from __future__ import annotations

import pytest

from concepts_cli.metrics.words import without_fragments


def test_the_built_in_models_words_are_those_of_its_captions():
    from concepts_cli.mini.captions import words
    from concepts_cli.mini.tokenizer import build_tokenizer

    pieces = {
        token.removesuffix("</w>"): row for token, row in build_tokenizer().get_vocab().items() if "</w>" in token
    }
    named = without_fragments(pieces, built_in=True)
    assert "arfish" in pieces and "arfish" not in named and named["starfish"] == pieces["starfish"]
    assert set(named) <= set(words())


def test_ends_of_words_are_left_out_of_clips_vocabulary():
    from open_clip.tokenizer import SimpleTokenizer

    encoder = SimpleTokenizer().encoder
    vocabulary = {token[:-4]: row for token, row in encoder.items() if token.endswith("</w>") and token[:-4].isalpha()}
    named = without_fragments(vocabulary, built_in=False)
    assert not {"ight", "fodils", "mingham", "chewan"} & set(named) and "mingham" in vocabulary
    assert {"ball", "fish", "dog", "cat", "house", "man", "ice", "night", "birmingham"} <= set(named)


@pytest.mark.parametrize("vocabulary", [{}, {"a": 0}, {"cat": 5}])
def test_small_vocabularies_stay(vocabulary):
    assert without_fragments(vocabulary, built_in=False) == vocabulary
