"""What reaches stdout and stderr: in a pipe, on a terminal, quiet, as JSON."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from concepts_cli import output
from concepts_cli.errors import UNSAFE, UcdError
from concepts_cli.output import Output, plain

UNSET = ("NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS", "UCD_DEBUG", "TQDM_DISABLE")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in UNSET}
ENVIRONMENT["PYTHONPATH"] = str(Path(output.__file__).parents[1])


@dataclass
class Score:
    concept: str
    value: float
    path: Path


class Kind(Enum):
    CLIP = "clip"


def every_word(out: Output) -> None:
    out.loading("a model [not markup]")
    out.note("a note [not markup]")
    out.warn("a warning")
    out.result("a/path.png")
    out.table("Scores", ["concept", "value"], [["<t1>", 0.5], ["<t\t2>", None]])
    out.document({"a": 1})
    assert list(out.track(range(3), total=3, label="work")) == [0, 1, 2]
    out.error(UcdError("wrong here\nand there", "mend it"))


def test_in_a_pipe_results_are_plain_lines(capsys):
    every_word(Output())
    out, err = capsys.readouterr()
    assert out == "a/path.png\nconcept\tvalue\n<t1>\t0.5\n<t 2>\t\n"
    assert err.splitlines()[:2] == ["a note [not markup]", "warning: a warning"]
    assert re.fullmatch(r"work  3/3(  [\d.]+/s)?", err.splitlines()[2])
    assert err.splitlines()[3:] == ["ucd: wrong here", "ucd: and there", "  mend it"]


def test_quiet_leaves_results_and_errors(capsys):
    every_word(Output(quiet=True))
    out, err = capsys.readouterr()
    assert out.startswith("a/path.png\n")
    assert err == "ucd: wrong here\nucd: and there\n  mend it\n"


def test_json_is_the_only_thing_on_stdout(capsys):
    every_word(Output(json=True))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    assert "a note" in err


def test_json_understands_what_the_commands_return(capsys):
    value = {
        Path("x"): Score("<t1>", np.float32(0.5), Path("a/b")),
        1: [np.int64(3), np.bool_(True), float("nan"), np.inf, None, "ünï\udc80"],
        "array": np.arange(4).reshape(2, 2),
        "set": {"b", "a"},
        "kind": Kind.CLIP,
        "generator": (n for n in range(2)),
        "ordered": OrderedDict(a=()),
    }
    Output(json=True).document(value)
    assert json.loads(capsys.readouterr().out) == {
        "x": {"concept": "<t1>", "value": 0.5, "path": "a/b"},
        "1": [3, True, None, None, None, "ünï\udc80"],
        "array": [[0, 1], [2, 3]],
        "set": ["a", "b"],
        "kind": "clip",
        "generator": [0, 1],
        "ordered": {"a": []},
    }
    with pytest.raises(TypeError, match="can't be written as JSON: object"):
        plain(object())


def test_an_error_without_a_hint(capsys):
    Output().error(UcdError("[bold]no such recipe"))
    assert capsys.readouterr() == ("", "ucd: [bold]no such recipe\n")


def test_a_file_name_that_is_not_text_goes_out_as_it_is():
    script = r"import os; from concepts_cli.output import Output; Output().result(os.fsdecode(b'caf\xe9.png'))"
    run = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, check=True)
    assert run.stdout == b"caf\xe9.png\n"


# -- progress in a pipe ----------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Set `clock.step`: the seconds that pass at each look at the clock."""

    class Clock:
        step, now = 0.0, 0.0

        def __call__(self) -> float:
            self.now += self.step
            return self.now

    clock = Clock()
    monkeypatch.setattr(output.time, "monotonic", clock)
    return clock


def lines_of(capsys, total: int, **more) -> list[str]:
    assert list(Output().track(range(total), total=total, label="train", **more)) == list(range(total))
    return capsys.readouterr().err.splitlines()


def test_quick_steps_show_only_the_end(capsys, clock):
    clock.step = 0.001
    assert lines_of(capsys, 100) == ["train  100/100  1000.0/s"]


def test_steady_steps_show_every_tenth(capsys, clock):
    clock.step = 0.5
    lines = lines_of(capsys, 100, describe=lambda n: {"loss": f"{n / 10:.1f}"})
    assert len(lines) == 10
    assert lines[0] == "train  10/100  loss 0.9  2.0/s  45 s left"
    assert lines[-1] == "train  100/100  loss 9.9  2.0/s"


def test_slow_steps_show_every_ten_seconds(capsys, clock):
    clock.step = 4
    lines = lines_of(capsys, 1000)
    assert 333 <= len(lines) <= 343  # every third of a thousand, and the tenths
    assert lines[0] == "train  3/1000  4.0 s each  1 h 6 min left"


def test_a_resumed_run_counts_from_where_it_was(capsys, clock):
    clock.step = 2
    steps = Output().track(range(5), total=10, label="train", start=5)
    assert list(steps) == list(range(5))
    assert capsys.readouterr().err.splitlines()[0] == "train  6/10  2.0 s each  8 s left"


def test_a_track_reads_no_further_than_its_reader(capsys):
    numbers = itertools.count()
    for number in Output().track(numbers, total=100, label="x"):
        if number == 3:
            break
    assert next(numbers) == 4


# -- on a terminal ---------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from concepts_cli.errors import UNSAFE, UcdError
from concepts_cli.output import Output
out = Output()
for n in out.track(range(3), total=3, label="work", describe=lambda n: {"loss": str(n)}):
    out.result(f"path {n}")
    out.note(f"note {n}")
    list(out.track(range(2), total=2, label="inner"))
out.table("Scores", ["concept", "value"], [["<t1>", "0.5"], ["[b]", None]])
try:
    for n in out.track(range(3), total=3, label="work"):
        raise UcdError("broken")
except UcdError as error:
    out.error(error)
"""


def on_a_terminal(script: str = SCRIPT, *, stdout_too: bool, **env: str) -> tuple[str, str]:
    """Run a script with stderr, and perhaps stdout, on a pseudo-terminal: (what that got, what the pipe got)."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "100"} | env
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    piped = process.communicate()[0] or b""
    os.close(ours)
    assert process.returncode == 0
    return seen.decode().replace("\r\n", "\n"), piped.decode()


def test_on_a_terminal_a_bar_and_results_after_it():
    seen, _ = on_a_terminal(stdout_too=True)
    assert "━" in seen
    assert "3/3" in seen
    assert seen.index("path 0") > seen.rindex("3/3")
    assert "\x1b[1;31mucd: \x1b[0mbroken" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is shown again"
    table = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen[seen.index("Scores") :])
    assert re.search(r"concept +value", table)
    assert re.search(r"<t1> +0.5", table)
    assert "[b]" in table
    assert "\t" not in table


def test_what_is_loading_is_said_at_once_and_goes_when_something_else_is_said():
    script = """
from concepts_cli.output import Output
out = Output()
out.loading("a [model]")
for n in out.track(range(2), total=2, label="work"):
    pass
out.loading("another")
out.result("path")
out.close()
"""
    seen, _ = on_a_terminal(script, stdout_too=True)
    assert seen.index("a [model]") < seen.index("work") < seen.index("another") < seen.index("path\n")
    assert seen.count("\x1b[?25h") >= 3, "the cursor is shown again"
    dumb, _ = on_a_terminal(script, stdout_too=True, TERM="dumb")
    assert "model" not in dumb and "2/2" in dumb


def test_lines_under_a_bar_are_drawn_there_and_nowhere_else():
    script = """
from concepts_cli.output import Output
out = Output()
for n in out.track(range(2), total=2, label="work", below=lambda: ["first [line]", "x" * 300]):
    pass
"""
    seen, _ = on_a_terminal(script, stdout_too=True)
    plain_text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen)
    lines = [line.split("\r")[-1] for line in plain_text.splitlines()]
    assert "  first [line]" in lines and max(map(len, lines)) <= 100, "as wide as the terminal"
    dumb, _ = on_a_terminal(script, stdout_too=True, TERM="dumb")
    assert "first" not in dumb


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"), ([3, 1, 0], "█▃▁")],
)
def test_a_small_line(values, drawn):
    assert output.sparkline(values) == drawn


def test_a_small_line_stays_small_and_means_what_it_leaves_out():
    assert len(output.sparkline(list(range(1000)), width=32)) <= 32
    assert output.sparkline([0, 2, 10, 12], width=2) == "▁█"


def test_with_stdout_in_a_pipe_results_do_not_wait_and_have_no_codes():
    seen, piped = on_a_terminal(stdout_too=False)
    assert "━" in seen
    assert piped == "path 0\npath 1\npath 2\nconcept\tvalue\n<t1>\t0.5\n[b]\t\n"


def test_no_color_leaves_no_colours_and_no_bold():
    seen, _ = on_a_terminal(stdout_too=True, NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*m", seen)


def test_a_dumb_terminal_gets_lines():
    seen, _ = on_a_terminal(stdout_too=True, TERM="dumb")
    assert "\x1b" not in seen
    assert "work  3/3" in seen


def test_forced_colour_makes_no_terminal_of_a_pipe():
    _, piped = on_a_terminal(stdout_too=False, FORCE_COLOR="1")
    assert "\x1b" not in piped


HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9bd\re\x7f\u202ef\udc9bg"
HOSTILE_SCRIPT = f"""
from concepts_cli.errors import UNSAFE, UcdError
from concepts_cli.output import Output
out, text = Output(), {HOSTILE!a}
out.note(text)
out.warn(text)
out.result(text)
out.table(text, [text], [[text]])
out.error(UcdError(text, text))
for step in out.track([text], total=1, label=text, describe=lambda text: {{"name": text}}):
    out.result(text)
"""


def test_names_of_others_do_nothing_to_a_terminal():
    seen, _ = on_a_terminal(HOSTILE_SCRIPT, stdout_too=True, NO_COLOR="1")
    own = re.sub(r"\x1b\[(\d*[AK]|\?25[lh])|\r", "", seen)  # the bar moves the cursor, too
    assert not UNSAFE.search(own.replace("\n", ""))
    assert seen.count(r"a\x1b]0;title\x07b\x1b[2Jc\x9bd\re\x7f\u202ef\udc9bg") >= 7


def test_a_pipe_gets_names_as_they_are_and_a_log_can_be_shown(capsys):
    out = Output()
    out.result("a\x1b[2J.png")
    out.error(UcdError("b\x1b[2J", "c\x9b"))
    assert capsys.readouterr() == ("a\x1b[2J.png\n", "ucd: b\\x1b[2J\n  c\\x9b\n")


# -- other libraries -------------------------------------------------------------------------------------------------


def test_hush_keeps_the_libraries_quiet():
    script = """
import logging, warnings
from concepts_cli.output import silence_libraries
silence_libraries()
import tqdm
warnings.warn("a warning")
logging.getLogger("diffusers").warning("a log line")
list(tqdm.tqdm(range(3)))
"""
    run = [sys.executable, "-c", script]
    quiet = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    debug = subprocess.run(run, env=ENVIRONMENT | {"UCD_DEBUG": "1"}, capture_output=True, text=True, check=True)
    assert "a warning" in debug.stderr
