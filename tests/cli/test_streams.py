"""Interrupts from the first import on, and streams that are full, closed or without a reader: one line or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
import typer

from concepts_cli.cli.session import command_output
from concepts_cli.errors import UcdError, memory_error

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and /dev/full are POSIX's")


@pytest.fixture(autouse=True)
def interruptible():
    """Python's own handler of SIGINT, even in a shell's background, where it would be ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


INTERRUPTED = """
import signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["ucd", "train", "quickstart", "--dry-run"]
from concepts_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["concepts_cli.cli", "typer", "concepts_cli.recipe.loading", "torch", "accelerate"])
def test_an_interrupt_during_an_import_exits_130_without_a_word(tmp_path, module):
    code = INTERRUPTED.format(module=module)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("ucd --help > /dev/full", 1, "can't write to stdout: No space left"),
        ("ucd --version > /dev/full", 1, "can't write to stdout: No space left"),
        ("ucd train quickstart --dry-run > /dev/full", 1, "can't write to stdout: No space left"),
        ("ucd train nowhere 2> /dev/full", 2, ""),
        ("ucd train nowhere 2>&-", 2, ""),
        ("ucd --version >&-", 0, ""),
        ("WORLD_SIZE=abc ucd sample", 2, "$WORLD_SIZE is 'abc', expected a number"),
        ("WORLD_SIZE=2 RANK=0 ucd sample", 2, "$WORLD_SIZE is 2, and $LOCAL_RANK is not set"),
        ("RANK=5 ucd sample", 2, "there are no runs here yet"),
        ("RANK=x ucd sample", 2, "$RANK is 'x', expected a number"),
        ("ucd encode ''", 2, "got an empty path"),
        ("ucd train ''", 2, "an empty name of a recipe"),
        ("ucd sample --output ''", 2, "got an empty path"),
    ],
)
def test_streams_and_variables_are_said_in_a_line(tmp_path, command, status, words):
    """As a shell runs it; a message is one line and a hint."""
    shell = f'set -o pipefail; ucd() {{ "{sys.executable}" -m concepts_cli "$@"; }}; {command}'
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == status and words in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2 and bool(words) == bool(result.stderr)


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (MemoryError(), "this computer"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory"), "this computer"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "this computer"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"), "the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "the GPU"),
    ],
)
def test_every_command_says_that_memory_ran_out_and_what_to_lower(capsys, error, where):
    with pytest.raises(typer.Exit) as ended, command_output(False, False, lower="lower --batch-size"):
        raise error
    said = f"ucd: this does not fit into the memory of {where}\n  lower --batch-size\n"
    assert ended.value.exit_code == 1 and capsys.readouterr().err == said


def test_an_interrupt_while_a_library_runs_code_exits_130_too(tmp_path):
    """Run with -m, Python ends itself by the signal if a KeyboardInterrupt has left an exec(), caught or not."""
    (tmp_path / "started.py").write_text(
        "import sys\n"
        "import concepts_cli.recipe\n"
        "from concepts_cli.__main__ import main\n"
        "sys.argv = ['ucd', 'train', 'quickstart']\n"
        "code = 'import signal; signal.raise_signal(signal.SIGINT)'\n"
        "concepts_cli.recipe.choose_recipe = lambda *_: exec(code)\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-m", "started"], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_other_errors_are_bugs():
    assert memory_error(RuntimeError("shapes differ")) is None
    with pytest.raises(RuntimeError, match="shapes differ"), command_output(True, False):
        raise RuntimeError("shapes differ")


def test_whatever_an_interrupt_became_is_an_interrupt(capsys):
    with pytest.raises(typer.Exit) as ended, command_output(False, False):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("a library's word for it") from error
    assert ended.value.exit_code == 130 and capsys.readouterr() == ("", "")


def test_a_mistake_of_the_command_keeps_its_words(capsys):
    with pytest.raises(typer.Exit) as ended, command_output(False, False):
        raise UcdError("no \x1b[31mred\u202e here", "mend it")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "ucd: no \\x1b[31mred\\u202e here\n  mend it\n"
