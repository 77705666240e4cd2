"""The processes that `accelerate launch` starts: the main one decides and speaks, all of them work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from concepts_cli.errors import UcdError
from concepts_cli.processes.environment import is_main, world_size

T = TypeVar("T")


class Team:
    """This process and those that were started with it, if any. `device` is where this one works."""

    def __init__(self, device: str | None = None):
        self.device = device
        self._state = None
        if world_size() > 1:
            from accelerate import PartialState

            # The slowest process may have long to go when the others wait for it.
            self._state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
            self.device = device or str(self._state.device)

    def share(self, decide: Callable[[], Sequence[T]]) -> Sequence[T]:
        """This process's part of a list that the main one makes, since files change while others still start.

        Raises what `decide` raises; only the main process says so.
        """
        if self._state is None:
            return decide()
        from accelerate.utils import broadcast_object_list

        decided: list[Sequence[T] | UcdError] = [()]  # what the main process sends
        if is_main():
            try:
                decided = [decide()]
            except UcdError as error:
                decided = [error]
        broadcast_object_list(decided)
        answer = decided[0]
        if isinstance(answer, UcdError):
            raise answer if is_main() else SystemExit(answer.exit_code)
        return answer[self._state.process_index :: self._state.num_processes]

    def wait(self) -> None:
        """Until every process is here."""
        if self._state is not None:
            self._state.wait_for_everyone()
