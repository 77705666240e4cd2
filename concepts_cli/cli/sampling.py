"""Options for a recipe's `sample` settings: the recipe says what each setting is called, means and allows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from concepts_cli.cli.options import HOW, WHAT, choices, number_parser, option
from concepts_cli.models.samplers import HELP, SCHEDULERS
from concepts_cli.recipe import SampleSettings

SHORT = {"num_images": "-n"}
HELPS = {"scheduler": HELP}
COMPLETIONS = {"scheduler": choices(*SCHEDULERS)}  # the model decides which names it takes
METAVARS = {"height": "PX", "width": "PX", "negative_prompt": "TEXT"}
SETTINGS = tuple(field.name for field in dataclasses.fields(SampleSettings))

Command = Callable[..., None]


def takes_sampling(helps: Mapping[str, str], *, names: Sequence[str] = SETTINGS) -> Callable[[Command], Command]:
    """Replace a command's parameter `sampling` by one option for each of these `sample` settings.

    `helps` replaces the help of settings that mean something else to this command. The command receives the options
    that were given as a dict, `sampling`; `recipe.fields.override` checks their values.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += _options(names, helps) if parameter.name == "sampling" else [parameter]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in names}
            command(**arguments, sampling={name: value for name, value in given.items() if value is not None})

        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _options(names: Sequence[str], helps: Mapping[str, str]) -> list[inspect.Parameter]:
    hints = get_type_hints(SampleSettings)
    fields = {field.name: field.metadata for field in dataclasses.fields(SampleSettings)}
    parameters = []
    for name in names:
        hint, rules = hints[name], fields[name]
        kind = hint if get_origin(hint) is Literal or not get_args(hint) else get_args(hint)[0]  # not `| None`
        doc = rules["doc"].partition("; null")[0]
        help_ = (HELPS | dict(helps)).get(name, f"{doc[0].upper()}{doc[1:]}.")
        metavar = METAVARS.get(name, {int: "N", float: "X"}.get(kind, "NAME"))
        rest: dict[str, Any] = {"autocompletion": COMPLETIONS.get(name)}
        if kind in (int, float):
            rest["parser"] = number_parser(kind, rules)
        if get_origin(kind) is Literal:
            help_ += f" One of {', '.join(get_args(kind))}."
            rest["autocompletion"] = choices(*get_args(kind))
            kind = str
        flags = ["--" + name.replace("_", "-"), *filter(None, [SHORT.get(name)])]
        panel = WHAT if name == "num_images" else HOW
        declared = option(*flags, help=help_, panel=panel, metavar=metavar, **rest)
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, place, default=None, annotation=Annotated[kind | None, declared]))
    return parameters
