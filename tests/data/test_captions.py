"""Captions beside images: in one line, with a place for the concept; and what is wrong with those that can't be one."""

from __future__ import annotations

import pytest

from concepts_cli.data.captions import as_caption, sentence
from concepts_cli.data.finding import find
from concepts_cli.data.records import read_images
from concepts_cli.data.source import Fields
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from tests.data.pictures import picture


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a photo of {} on a table", "a photo of <t1> on a table"),
        ("  a dog\r\n on a\ttable \n", "<t1>, a dog on a table"),
        ("{} and {}", "<t1> and <t1>"),
        ("a {red|blue} {}", "a {red|blue} <t1>"),
        ("a { of {0} {}", "a { of {0} <t1>"),
        ("{{}}", "{<t1>}"),
        ("} {", "<t1>, } {"),
    ],
)
def test_a_caption_is_a_prompt_with_the_concept_in_it(text, prompt):
    assert sentence(as_caption(text, "x.txt")).format("<t1>") == prompt


def folder_of(tmp_path, **captions: bytes | None):
    for name, text in captions.items():
        picture(tmp_path / f"{name}.png")
        if text is not None:
            (tmp_path / f"{name}.txt").write_bytes(text)
    return find([tmp_path], Fields(captions=".txt"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"no caption of a\.png: .*a\.txt is missing"),
        (b" \n ", r"the caption of .*a\.png is empty"),
        (b"x" * 20_000, r"a\.txt: a caption of more than 16,384 bytes"),
        (b"x" * 3_000, r"a\.png has 3,000 characters"),
        (b"\xff\xfe\x00", r"a\.txt: not a caption: it isn't UTF-8 text"),
    ],
)
def test_a_caption_that_can_not_be_one(tmp_path, content, problem, capsys):
    found = folder_of(tmp_path, a=content, b=b"\xef\xbb\xbfa {}")
    with pytest.raises(UcdError, match=problem) as caught:
        read_images(found)
    assert caught.value.hint
    assert [record.caption for record in read_images(found, skip_broken=True, out=Output())] == ["a {}"]
    assert "skipping 1 of 2 images" in capsys.readouterr().err


def test_what_is_optional_may_be_missing(tmp_path):
    folder_of(tmp_path, a=None, b=b"a {}")
    fields = Fields(captions=".txt", masks="-mask.png", optional=True)
    assert [record.caption for record in read_images(find([tmp_path], fields))] == [None, "a {}"]


def test_files_have_no_columns(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(UcdError, match="data.captions: 'text': .* has files, no columns"):
        find([tmp_path], Fields(captions="text"))
