"""The command that makes a picture, which the picture carries."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence

from concepts_cli.paths import public_path
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run

LONGEST = 4000  # characters


def command(run: Run, verb: str, *arguments: str) -> str:
    """`ucd VERB …` for this run, quoted for a shell."""
    return shlex.join(["ucd", verb, *arguments, "--run", public_path(run.path)])


def making_command(
    run: Run,
    verb: str,
    texts: Sequence[str],
    options: Iterable[tuple[str, object]],
    settings: SampleSettings,
    usual: SampleSettings,
) -> str:
    """The command for these texts, with the options that have a value and the settings that are not as `usual`.

    True is the value of an option without one. Pictures don't depend on the batch size. Empty if it would be longer
    than any picture should carry.
    """
    named = dataclasses.asdict(dataclasses.replace(settings, batch_size=usual.batch_size))
    changed = [(name, value) for name, value in named.items() if value != getattr(usual, name)]
    words: list[str] = []
    for name, value in [*options, *changed]:
        if value is not None and value is not False and value != "":
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    if any(text.startswith("-") for text in texts):
        whole = f"{command(run, verb, *words)} -- {shlex.join(texts)}"
    else:
        whole = command(run, verb, *texts, *words)
    return whole.encode("utf-8", "backslashreplace").decode() if len(whole) <= LONGEST else ""  # a name may be no text
