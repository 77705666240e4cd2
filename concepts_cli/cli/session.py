"""What surrounds every command: its output, its exit status, and the signals that end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import typer

from concepts_cli.errors import UcdError
from concepts_cli.output import Output, silence_libraries
from concepts_cli.processes.environment import is_main
from concepts_cli.processes.signals import termination_interrupts


class HasPath(Protocol):
    @property
    def path(self) -> str: ...


@contextmanager
def command_output(quiet: bool, json: bool) -> Iterator[Output]:
    """The command's output, and the exit status of whatever goes wrong in it."""
    out = Output(quiet=quiet, json=json, mute=not is_main())
    silence_libraries()
    with termination_interrupts():
        try:
            yield out
        except UcdError as error:
            if os.environ.get("UCD_DEBUG", "0") not in ("", "0"):
                raise
            out.error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        finally:
            out.close()


def print_paths(made: Sequence[HasPath], out: Output) -> None:
    """A path per line, or the whole as JSON."""
    for item in made:
        out.result(item.path)
    out.document(made)
