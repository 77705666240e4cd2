"""Options made of a recipe's `sample` settings: one place says what a setting is called, means and allows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from concepts_cli.recipe import SampleSettings

SHORT = {"num_images": "-n"}
SETTINGS = tuple(field.name for field in dataclasses.fields(SampleSettings))

Command = Callable[..., None]


def takes_sampling(
    names: Sequence[str] = SETTINGS, *, meanings: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Give a command an option for each of these `sample` settings, where its parameter `sampling` stands.

    `meanings` replaces the help of those that mean something else to this command. It is called with those that were
    given as `sampling`, a dict; `recipe.fields.override` checks what typer can't.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += _options(names, meanings or {}) if parameter.name == "sampling" else [parameter]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in names}
            command(**arguments, sampling={name: value for name, value in given.items() if value is not None})

        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _options(names: Sequence[str], meanings: Mapping[str, str]) -> list[inspect.Parameter]:
    hints = get_type_hints(SampleSettings)
    fields = {field.name: field for field in dataclasses.fields(SampleSettings)}
    parameters = []
    for name in names:
        hint, rules = hints[name], fields[name].metadata
        kind = hint if get_origin(hint) is Literal or not get_args(hint) else get_args(hint)[0]  # not `| None`
        doc = rules["doc"].partition("; null")[0]
        help_ = meanings.get(name, f"{doc[0].upper()}{doc[1:]}.")
        if get_origin(kind) is Literal:
            help_ += f" One of {', '.join(get_args(kind))}."
            kind = str
        flags = ["--" + name.replace("_", "-"), *filter(None, [SHORT.get(name)])]
        option = typer.Option(*flags, min=rules.get("at_least"), max=rules.get("at_most"), help=help_)
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, place, default=None, annotation=Annotated[kind | None, option]))
    return parameters
