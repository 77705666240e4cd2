"""What every command shares: its output, its exit status, and how signals end it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

from concepts_cli.errors import UcdError, memory_error
from concepts_cli.output import Output, is_debugging, silence_libraries
from concepts_cli.processes.environment import is_main, world_size
from concepts_cli.processes.signals import termination_interrupts
from concepts_cli.processes.streams import stream_error

if TYPE_CHECKING:
    from concepts_cli.recipe.loading import AtHand
    from concepts_cli.runs.run import Run

LOWER = "lower --batch-size, or --height and --width; or use --device cpu"


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
def command_output(quiet: bool, json: bool, lower: str = LOWER) -> Iterator[Output]:
    """Give the command its output, and turn whatever goes wrong into a message and an exit status.

    `lower` says what saves memory, if it runs out.
    """
    out = Output(quiet=quiet, json=json, mute=not is_main())
    silence_libraries()
    with termination_interrupts() as noted:
        try:
            world_size()  # before the work, not in the middle of it
            with current_folder_needed():
                yield out
        except typer.Exit:
            raise
        except BrokenPipeError:  # the reader has gone, such as `| head`
            raise typer.Exit(0) from None
        except BaseException as error:
            if noted or isinstance(error, KeyboardInterrupt):
                raise typer.Exit(130) from None
            mistake = error if isinstance(error, UcdError) else memory_error(error, lower) or stream_error(error)
            if mistake is None or is_debugging():
                raise
            out.error(mistake)
            raise typer.Exit(mistake.exit_code) from None
        finally:
            out.close()


def chosen_run(given: str | None, out: Output) -> Run:
    """The run that a command works on. Says on a terminal which it is, as the work's modules take seconds to load."""
    from concepts_cli.runs.find import find_run

    run = find_run(given)
    out.loading(f"{run.path}: loading {run.recipe.model}")
    return run


def model_at_hand(device: str | None) -> AtHand:
    """What a folder of images is trained with here. Imports torch only if it is asked."""

    def settings(model: str | None) -> Mapping[str, Any]:
        from concepts_cli.training.choosing import at_hand

        return at_hand(device)(model)

    return settings


def say_next(out: Output, done: str, suggestion: str) -> None:
    """End a command with what it did and, in a line of its own, what to do next."""
    out.note(done)
    out.note(f"next: {suggestion}")


def print_paths(run: Run, kind: str, made: Sequence[HasPath], out: Output, suggestion: str) -> None:
    """Print one path per line, or as JSON the run, what was made, and the paths of sheets; then what to do next."""
    from concepts_cli.pictures.plan import Sheet

    for record in made:
        out.result(record.path)
    records = [record for record in made if not isinstance(record, Sheet)]
    sheets = [record.path for record in made if isinstance(record, Sheet)]
    out.document({"run": run.path, kind: records, "sheets": sheets})
    if made:
        say_next(out, f"{len(records):,} {kind if len(records) > 1 else kind[:-1]} of {run.path}", suggestion)
