"""The processes of `accelerate launch`: the main one decides and prints, all of them work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from concepts_cli.errors import UcdError
from concepts_cli.processes.environment import is_main, world_size

T = TypeVar("T")


class Team:
    """This process and those started with it, if any. `device` is the one that this process uses."""

    def __init__(self, device: str | None = None):
        self.device = device
        self._state = None
        if world_size() > 1:
            from accelerate import PartialState

            # The others may have to wait long for the slowest process.
            self._state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
            self.device = device or str(self._state.device)

    def share(self, decide: Callable[[], Sequence[T]]) -> Sequence[T]:
        """This process's share of a list that the main process decides, since files may change while others start.

        Raises what `decide` raises; only the main process reports it.
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
        """Wait for every process."""
        if self._state is not None:
            self._state.wait_for_everyone()


def part() -> None:
    """End this process's connection with the others, if it has one: its threads may crash Python as it exits."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
