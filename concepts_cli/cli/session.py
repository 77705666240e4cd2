"""What every command shares: its output, its exit status, and how signals end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import typer

from concepts_cli.errors import UcdError
from concepts_cli.output import Output, is_debugging, silence_libraries
from concepts_cli.processes.environment import is_main
from concepts_cli.processes.signals import termination_interrupts


class HasPath(Protocol):
    @property
    def path(self) -> str: ...


@contextmanager
def current_folder_needed() -> Iterator[None]:
    """Raise UcdError if the current folder is deleted before or during a command, which libraries can't bear."""
    try:
        os.getcwd()
        yield
    except FileNotFoundError as error:
        try:
            os.getcwd()
        except OSError:
            hint = "it was deleted or moved: go to another one with cd"
            raise UcdError("the current folder no longer exists", hint) from error
        raise


@contextmanager
def command_output(quiet: bool, json: bool) -> Iterator[Output]:
    """Give the command its output, and turn whatever goes wrong into a message and an exit status."""
    out = Output(quiet=quiet, json=json, mute=not is_main())
    silence_libraries()
    with termination_interrupts():
        try:
            with current_folder_needed():
                yield out
        except UcdError as error:
            if is_debugging():
                raise
            out.error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has gone, such as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        finally:
            out.close()


def print_paths(records: Sequence[HasPath], out: Output) -> None:
    """Print one path per line, or all records as JSON."""
    for record in records:
        out.result(record.path)
    out.document(records)
