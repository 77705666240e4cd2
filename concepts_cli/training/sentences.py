"""The prompts that words are learned in: templates, and the captions that images come with."""

from __future__ import annotations

from collections.abc import Sequence

from concepts_cli.data.captions import MARK, sentence
from concepts_cli.data.images import ImageRecord
from concepts_cli.errors import UcdError, printable
from concepts_cli.models.interface import DiffusionModel
from concepts_cli.output import Output
from concepts_cli.recipe import ConceptSettings


def training_sentences(
    concepts: ConceptSettings, records: Sequence[ImageRecord]
) -> tuple[tuple[str, ...], list[range]]:
    """All prompts that training draws from, with one place for the word each, and which of them each image may have.

    An image with a caption has that one; others have the templates of their place's property. The second is empty if
    every image may have all.
    """
    templates = concepts.templates()
    captions = list(dict.fromkeys(record.caption for record in records if record.caption))
    if not captions and not concepts.properties:
        return templates, []
    first = {caption: len(templates) + n for n, caption in enumerate(captions)}
    own = [
        range(first[record.caption], first[record.caption] + 1)
        if record.caption
        else concepts.templates_of(record.place)
        for record in records
    ]
    return (*templates, *map(sentence, captions)), own


def check_captions(records: Sequence[ImageRecord], model: DiffusionModel, vectors: int, out: Output) -> None:
    """Warn of captions that the model reads only the beginning of; raise UcdError where that leaves out the concept,
    which takes as many tokens as it has `vectors`.
    """
    cut = 0
    for record in records:
        if not record.caption or not model.is_truncated(sentence(record.caption).format("a " * vectors)):
            continue
        before = record.caption.partition(MARK)[0]
        if model.is_truncated(before + "a " * vectors):
            problem = (
                f"the caption of {printable(record.path)} has its {MARK} behind the model's {model.max_tokens} tokens"
            )
            raise UcdError(problem, f"shorten it, or write {MARK} earlier")
        cut += 1
    if cut:
        out.warn(
            f"the captions of {cut:,} of {len(records):,} images are longer than the model's {model.max_tokens} "
            "tokens: their ends are not read"
        )
