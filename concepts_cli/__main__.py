"""`ucd`, `python -m concepts_cli`, and `accelerate launch -m concepts_cli`: import the commands, and run one."""

from __future__ import annotations

import os

try:
    import signal
except KeyboardInterrupt:
    os._exit(130)


def main() -> None:
    """What the `ucd` script calls. Before the commands are imported, an interrupt has nothing to clean up."""
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in a script's background jobs
    if not is_ignored:
        signal.signal(signal.SIGINT, _leave)
    from concepts_cli.cli.app import main as run

    run()  # while a command works, it handles signals itself


def _leave(number: int, frame: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    main()
