"""Words that the built-in model doesn't know: it would draw the picture as if they were not there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from concepts_cli.output import Output
from concepts_cli.recipe import BUILT_IN
from concepts_cli.runs.run import Run


def warn_of_unknown_words(run: Run, texts: Iterable[str], out: Output) -> None:
    """Warn of words in these texts that the run's model never read, and say which it knows."""
    if run.recipe.model != BUILT_IN:
        return
    from concepts_cli.mini.captions import VOCABULARY, words

    known = set(words())
    written = (re.findall(r"[^\W\d_]+", re.sub("<[^<>]*>", " ", text.lower())) for text in texts)
    if unknown := dict.fromkeys(word for text in written for word in text if word not in known):
        out.warn(
            f"the built-in model doesn't know {', '.join(map(repr, unknown))}, and ignores it: it knows "
            f"{', '.join(VOCABULARY)}"
        )
