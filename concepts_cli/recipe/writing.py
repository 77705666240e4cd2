"""Write a recipe as YAML that `load_recipe` reads back."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import yaml

from concepts_cli.paths import HUB
from concepts_cli.recipe.fields import AUTO, choices
from concepts_cli.recipe.schema import Recipe


def dump_recipe(recipe: Recipe) -> str:
    """The YAML of every value, each with its documentation; `load_recipe` reads it back as an equal Recipe."""
    return "".join(_dump(recipe, ""))


def _dump(settings: Any, indent: str) -> Iterator[str]:
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield f"\n{indent}{field.name}:\n"
            yield from _dump(value, indent + "  ")
            continue
        doc = f"  # {field.metadata['doc']}{_choices(field.metadata['doc'], hints[field.name])}\n"
        if field.metadata.get("path") or field.metadata.get("model"):
            value = _escape(value)
        if isinstance(value, tuple) and isinstance(value[0], str):
            yield f"{indent}{field.name}:{doc}"
            yield from (f"{indent}  - {yaml_scalar(item)}\n" for item in value)
        else:
            yield f"{indent}{field.name}: {yaml_setting(field, value)}{doc}"


def _choices(doc: str, kind: Any) -> str:
    """What a setting of a few words may be, unless its documentation names them all."""
    named = choices(kind)
    return "" if all(name in re.findall(r"[\w-]+", doc) for name in named) else f" ({', '.join(named)})"


def _escape(value: Any) -> Any:
    """Escape paths for `load_recipe`, which expands `$NAME` and reads `$$` as a dollar sign."""
    if isinstance(value, tuple):
        return tuple(_escape(item) for item in value)
    is_path = isinstance(value, str) and os.path.isabs(value.removeprefix(HUB))
    return value.replace("$", "$$") if is_path else value


def yaml_setting(field: dataclasses.Field[Any], value: Any) -> str:
    """One line of YAML, as the setting of this field reads it."""
    return AUTO if value is None and field.metadata.get("auto") else yaml_scalar(value)


def yaml_scalar(value: Any) -> str:
    """One line of YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(yaml_scalar(item) for item in value)}]"
    plain = isinstance(value, str) and value.isprintable()
    style = None if plain or not isinstance(value, str) else '"'
    text = yaml.safe_dump(value, default_style=style, width=float("inf"), allow_unicode=plain)
    return text.removesuffix("\n").removesuffix("\n...")
