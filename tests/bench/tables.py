"""Tables as Markdown, on stdout."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    for line in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(line)} |")
    print(flush=True)
