"""Options of a command made of a recipe's settings: one place says what a setting is called, means and allows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from concepts_cli.recipe import SampleSettings

SHORT = {"num_images": "-n"}


def takes_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for every setting of a recipe's `sample` section, where its parameter `sampling` stands.

    It is called with those that were given as `sampling`, a dict; `settings.override` checks what typer can't.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = []
    for parameter in signature.parameters.values():
        parameters += _options() if parameter.name == "sampling" else [parameter]

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        given = {field.name: arguments.pop(field.name) for field in dataclasses.fields(SampleSettings)}
        command(**arguments, sampling={name: value for name, value in given.items() if value is not None})

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _options() -> list[inspect.Parameter]:
    hints = get_type_hints(SampleSettings)
    parameters = []
    for field in dataclasses.fields(SampleSettings):
        hint, rules = hints[field.name], field.metadata
        kind = hint if get_origin(hint) is Literal or not get_args(hint) else get_args(hint)[0]  # not `| None`
        doc = rules["doc"].partition("; null")[0]
        help_ = f"{doc[0].upper()}{doc[1:]}."
        if get_origin(kind) is Literal:
            help_ += f" One of {', '.join(get_args(kind))}."
            kind = str
        names = ["--" + field.name.replace("_", "-"), *filter(None, [SHORT.get(field.name)])]
        option = typer.Option(*names, min=rules.get("at_least"), max=rules.get("at_most"), help=help_)
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(field.name, place, default=None, annotation=Annotated[kind | None, option]))
    return parameters
