"""Help pages that say with a metavar what a value is; typer would add its Python type."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from concepts_cli.cli.options import COMPLETION


class Command(TyperCommand):
    """A command of `ucd`."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """`ucd` itself; typer's own options, which install completion, get a panel."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        elif param.metavar is None:
            param.metavar, param.rich_help_panel = "", COMPLETION
    return params
