"""The command that makes a picture, which the picture carries."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from concepts_cli.paths import public_path
from concepts_cli.recipe import SampleSettings
from concepts_cli.runs.run import Run

LONGEST = 4000  # characters
FLAGS = ("grid", "training-images", "maps", "masks", "force")  # options without a value


@dataclass(frozen=True)
class MadeBy:
    """A command that made a picture, read again: its verb, its texts, and the last value of each option."""

    verb: str
    texts: list[str]
    options: dict[str, str]


def read_command(whole: str) -> MadeBy | None:
    """What `making_command` wrote; None for anything else."""
    try:
        program, verb, *words = shlex.split(whole)
    except ValueError:
        return None
    if program != "ucd":
        return None
    texts, options = list[str](), dict[str, str]()
    while words:
        word = words.pop(0)
        if word == "--":
            return MadeBy(verb, texts + words, options)
        if not word.startswith("--"):
            texts.append(word)
        elif word[2:] in FLAGS or words:
            options[word[2:]] = "" if word[2:] in FLAGS else words.pop(0)
    return MadeBy(verb, texts, options)


def elsewhere(output: Path | None, usual: Path) -> str:
    """The folder that a command is to write to, if it is not the usual one."""
    return "" if output is None or output.resolve() == usual.resolve() else public_path(output)


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
