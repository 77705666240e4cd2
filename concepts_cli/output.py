"""The one place that touches rich, stdout and stderr.

stdout carries results, stderr everything else. A terminal gets tables, colours and a progress bar; a pipe gets plain
lines. rich honours `NO_COLOR` and `TERM=dumb`; `-q` and `--json` are handled here.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, TextIO, TypeVar

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape as escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from concepts_cli.errors import UcdError, printable

T = TypeVar("T")
Describe = Callable[[T], Mapping[str, str]]
REFRESHES = 4  # of a bar, per second
BLOCKS = "▁▂▃▄▅▆▇█"
LOUD_LIBRARIES = ("accelerate", "diffusers", "huggingface_hub", "open_clip", "timm", "torch", "transformers")


class Output:
    """Everything that a command prints.

    `result`, `table` and `document` print results to stdout; `loading`, `note`, `warn`, `error` and `track` report to
    stderr. With `json`, only `document` prints to stdout, so that it is one document; with `quiet`, only `error` prints
    to stderr; `mute`, for all processes but the main one, prints only errors. Call `close` at the end of a command,
    whatever happened.
    """

    def __init__(self, quiet: bool = False, json: bool = False, mute: bool = False):
        self.quiet, self.json, self.mute = quiet or mute, json, mute
        colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"  # rich alone would keep bold
        self._stdout = Console(highlight=False, color_system=colours)
        self._stderr = Console(highlight=False, color_system=colours, file=_Unfailing())  # type: ignore[arg-type]
        self._bar: Progress | None = None
        self._status: Status | None = None  # what is being loaded, until something else is said
        self._held: list[str] = []  # result lines to print once the bar is gone

    # -- results

    def result(self, line: object) -> None:
        """Print one line to stdout, such as the path of an image."""
        if self.json or self.mute:
            return
        self._loaded()
        on_terminal = _is_terminal(sys.stdout)
        text = printable(line) if on_terminal else str(line)  # a name could steer a terminal
        if self._bar and on_terminal:
            self._held.append(text)
        else:
            _write(sys.stdout, text)

    def document(self, value: Any) -> None:
        """Print the JSON document of a `--json` run. Takes dataclasses, paths, and numpy's numbers and arrays."""
        self._loaded()
        if self.json and not self.mute:
            _write(sys.stdout, jsonlib.dumps(plain(value), indent=2, allow_nan=False))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; in a pipe, lines of tab-separated cells, column names first."""
        if self.json or self.mute:
            return
        self.close()
        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        if not _is_terminal(sys.stdout):
            for row in [list(columns), *cells]:
                _write(sys.stdout, "\t".join(printable(" ".join(cell.split())) for cell in row))
            return
        cells = [[printable(cell) for cell in row] for row in cells]
        table = Table(
            title=Text(printable(title), style="bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD
        )
        for position, name in enumerate(columns):
            numbers = all(_is_number(row[position]) for row in cells) and cells
            table.add_column(Text(printable(name)), justify="right" if numbers else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        self._stdout.print(table)

    # -- reports

    def note(self, text: str) -> None:
        """Report progress to stderr."""
        if not self.quiet:
            self._say(text)

    def loading(self, text: str) -> None:
        """Say on a terminal what takes its time before anything else can be said; it vanishes then."""
        self._loaded()
        if not self.quiet and _is_terminal(sys.stderr) and not self._stderr.is_dumb_terminal:
            self._status = self._stderr.status(escape(printable(text)))
            self._status.start()

    def warn(self, text: str) -> None:
        """Warn on stderr."""
        if not self.quiet:
            self._say(text, ("warning: ", "yellow"))

    def error(self, error: UcdError) -> None:
        """Say on stderr what went wrong and how to fix it, quiet or not."""
        self.close()
        for line in error.message.rstrip("\n").split("\n"):
            self._say(line, ("ucd: ", "bold red"))
        for line in filter(None, (error.hint or "").split("\n")):
            self._say(f"  {line}")

    def track(
        self,
        steps: Iterable[T],
        *,
        total: int,
        label: str,
        describe: Describe[T] | None = None,
        below: Callable[[], Sequence[str]] = tuple,
        start: int = 0,
    ) -> Iterator[T]:
        """Pass `steps` through and show progress: a bar on a terminal, an occasional line in a pipe.

        In a resumed run, `start` of the `total` steps are already done. `describe` returns what to show beside the
        count, such as {"loss": "0.123"}; `below` lines to show under a bar, a few times a second. A nested track adds a
        line to the same bar.
        """
        self._loaded()
        if self.quiet:
            return iter(steps)
        if _is_terminal(sys.stderr) and not self._stderr.is_dumb_terminal:
            return self._track_bar(steps, total, label, describe, below, start)
        return self._track_lines(steps, total, label, describe, start)

    def close(self) -> None:
        """Remove the bar, if there still is one, and print the results that waited for it."""
        self._loaded()
        bar, self._bar = self._bar, None
        if bar:
            bar.stop()
        held, self._held = self._held, []
        for line in held:
            _write(sys.stdout, line)

    # -- internals

    def _loaded(self) -> None:
        status, self._status = self._status, None
        if status:
            status.stop()

    def _say(self, text: str, mark: tuple[str, str] = ("", "")) -> None:
        """Print a line to stderr after a styled mark; the terminal wraps it, so that it is copied as one line."""
        self._loaded()
        self._stderr.print(Text.assemble(mark, printable(text)), soft_wrap=True)

    def _track_bar(
        self,
        steps: Iterable[T],
        total: int,
        label: str,
        describe: Describe[T] | None,
        below: Callable[[], Sequence[str]],
        start: int,
    ) -> Iterator[T]:
        bar = self._bar
        outermost = bar is None
        if bar is None:
            bar = self._bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[shown]}"),
                console=self._stderr,
                speed_estimate_period=120,  # a step of a large model takes many seconds
                refresh_per_second=REFRESHES,
                redirect_stdout=False,  # stdout may be a pipe whose reader waits for each line
            )
            bar.start()
        task = bar.add_task(printable(label), total=total, completed=start, shown="", below=())
        drawn = float("-inf")
        try:
            for item in steps:
                bar.update(task, advance=1, shown=_shown(describe, item))
                if time.monotonic() - drawn >= 1 / REFRESHES:
                    bar.update(task, below=below())
                    drawn = time.monotonic()
                yield item
        finally:
            if outermost:
                self.close()
            else:
                bar.remove_task(task)

    def _track_lines(
        self, steps: Iterable[T], total: int, label: str, describe: Describe[T] | None, start: int
    ) -> Iterator[T]:
        began = last = time.monotonic()
        done = printed = start
        for item in steps:
            done += 1
            now = time.monotonic()
            tenth = done * 10 // max(total, 1) > printed * 10 // max(total, 1)
            if done == total or now - last >= 10 or (tenth and now - last >= 1):
                speed = (done - start) / (now - began) if now > began else None
                left = f"{duration((total - done) / speed)} left" if speed and done < total else ""
                words = [label, f"{done}/{total}", _shown(describe, item), _rate(speed), left]
                self._say("  ".join(filter(None, words)))
                last, printed = now, done
            yield item


class _Bar(Progress):
    """A bar with lines under it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            for line in task.fields["below"]:
                yield Text(f"  {printable(line)}", no_wrap=True, overflow="ellipsis")


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task.finished_speed or task.speed))


def silence_libraries() -> None:
    """Silence other libraries' bars and warnings, unless UCD_DEBUG=1. Call it before importing them."""
    if is_debugging():
        return
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Whatever they log as an error, they also raise. open_clip uses the root logger.
    for name in (None, *LOUD_LIBRARIES):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def is_debugging() -> bool:
    """Whether UCD_DEBUG=1 asks for tracebacks and other libraries' messages."""
    return os.environ.get("UCD_DEBUG", "0") not in ("", "0")


def plain(value: Any) -> Any:
    """Convert a value to JSON's types. Numbers that JSON can't hold (nan, inf) become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"can't be written as JSON: {type(value).__name__}")


class _Unfailing:
    """stderr, wherever it leads: what a full disk or a closed terminal doesn't take is lost, and the work goes on."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _write(stream: TextIO, line: str) -> None:
    """Print a line and flush it. A file name that isn't valid text is written as its raw bytes."""
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:
        try:
            raw = line.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raw = printable(line).encode()
        stream.buffer.write(raw + b"\n")
        stream.flush()


def _is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal. rich's own test lets FORCE_COLOR turn a pipe into one."""
    return stream.isatty()


def _is_number(text: str) -> bool:
    return text.strip("+-% ").replace(".", "", 1).isdigit() or not text


def _shown(describe: Describe[Any] | None, item: Any) -> str:
    return printable("  ".join(f"{name} {value}" for name, value in describe(item).items())) if describe else ""


def _rate(per_second: float | None) -> str:
    if not per_second:
        return ""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """Numbers as a line of blocks of at most `width` characters, each the mean of as many numbers."""
    size = -(-len(values) // width) or 1
    means = [sum(values[n : n + size]) / len(values[n : n + size]) for n in range(0, len(values), size)]
    low, high = min(means, default=0), max(means, default=0)
    return "".join(BLOCKS[int((mean - low) / (high - low or 1) * (len(BLOCKS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """'45 s', '3 min 20 s', '2 h 5 min'; '3 min' rather than '3 min 0 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{hours} h" * bool(hours),
        f"{minutes} min" * bool(minutes),
        f"{seconds} s" * (bool(seconds) and not hours),
    ]
    return " ".join(filter(None, parts)) or "0 s"
