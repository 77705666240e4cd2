"""Typed settings: dataclasses whose fields carry their documentation and limits, filled from a tree of text.

Mistakes are collected, so that all of them are reported at once.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from concepts_cli.errors import UcdError, did_you_mean, text_of
from concepts_cli.paths import HUB
from concepts_cli.recipe.numbers import number_words, parse_number
from concepts_cli.recipe.tree import MOST_SHOWN, Mistakes, Node

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

AUTO = "auto"


def setting(default: Any = dataclasses.MISSING, doc: str = "", **rules: Any) -> Any:
    """A dataclass field with its line of documentation and its rules.

    Rules: those of recipe/numbers.py for numbers; `auto` for a value that may be found instead, which is None in Python
    and "auto" in a file; `path` for a path relative to the file it is written in, where `~`
    and `$NAME` are expanded; `model` for a name that is a path only if it starts like one; `pattern` for a regex and
    its description.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **rules})


def build(cls: type[T], node: Node, mistakes: Mistakes, prefix: str = "", root: type | None = None) -> T:
    """Fill `cls` from the mapping `node`. Wrong values are added to `mistakes` and left at their defaults."""
    root = root or cls
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    given = node.value
    if given is None:  # `train:` with every line below it commented out
        given = {}
    if not isinstance(given, dict):
        mistakes.add(node.where, prefix.rstrip("."), f"got {node.describe()}, expected settings ({', '.join(fields)})")
        given = {}
    values: dict[str, Any] = {}
    for name, child in given.items():
        key = prefix + name
        if name not in fields:
            known = len(mistakes) < MOST_SHOWN  # the rest are only counted, and a hint takes milliseconds
            mistakes.add(child.where, key, _unknown(name, prefix, list(fields), root) if known else "unknown key")
        elif dataclasses.is_dataclass(hints[name]):
            values[name] = build(hints[name], child, mistakes, f"{key}.", root)
        else:
            try:
                values[name] = _value(hints[name], child, fields[name].metadata)
            except _Wrong as wrong:
                mistakes.add(wrong.node.where, key + wrong.item, wrong.problem)
                mistakes.keys.add(key)
    for name, field in fields.items():
        if name in values or field.default is not dataclasses.MISSING:
            continue
        if dataclasses.is_dataclass(hints[name]):
            values[name] = build(hints[name], Node({}, node.where, node.folder), mistakes, f"{prefix}{name}.", root)
            continue
        values[name] = None
        if prefix + name not in mistakes.keys:
            mistakes.add(node.where, prefix + name, f"missing ({field.metadata['doc']})")
    return cls(**values)


def override(settings: T, given: Mapping[str, Any], *, as_options: bool = True) -> T:
    """Replace values of `settings` by a command's options or a call's keywords, checked by the same rules.

    Raises UcdError with one line per mistake: `--steps: got 0, expected a whole number from 1 to 10,000`,
    or `steps: …` for a keyword.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    hints = get_type_hints(type(settings))
    values, mistakes = {}, []
    for name, value in given.items():
        label = f"--{name.replace('_', '-')}" if as_options else name
        if name not in fields:
            mistakes.append(f"{label}: {_unknown(name, '', list(fields), type(settings))}")
            continue
        text = None if value is None else text_of(value) or None
        try:
            values[name] = _value(hints[name], Node(text, "", Path()), fields[name].metadata)
        except _Wrong as wrong:
            mistakes.append(f"{label}: {wrong.problem.replace(' or null', '')}")
    if mistakes:
        raise UcdError("\n".join(mistakes))
    return dataclasses.replace(settings, **values)


class _Wrong(Exception):
    def __init__(self, node: Node, problem: str, item: str = ""):
        self.node, self.problem, self.item = node, problem, item


def _value(kind: Any, node: Node, rules: Any) -> Any:
    """Convert the node to the type hint `kind`. Raises _Wrong."""
    expected = expected_words(kind, rules)
    if get_origin(kind) in (Union, types.UnionType):
        if node.value == (AUTO if rules.get("auto") else None):
            return None
        kind = next(option for option in get_args(kind) if option is not types.NoneType)
    if get_origin(kind) is tuple:
        items = node.value if isinstance(node.value, list) else [node]  # a single value is a list of one
        if node.value is None or isinstance(node.value, dict) or not items:
            raise _Wrong(node, f"got {'an empty list' if node.value == [] else node.describe()}, expected {expected}")
        first, *rest = get_args(kind)
        if rest != [...] and len(items) != 1 + len(rest):
            raise _Wrong(node, f"got {len(items)} value{'s' * (len(items) > 1)}, expected {expected}")
        read = []
        for position, item in enumerate(items):
            try:
                read.append(_value(first, item, rules))
            except _Wrong as wrong:
                raise _Wrong(wrong.node, wrong.problem, f"[{position}]" if node.value is items else "") from None
        return tuple(read)
    if not isinstance(node.value, str):
        raise _Wrong(node, f"got {node.describe()}, expected {expected}")
    converted = _scalar(kind, node.value, rules)
    if converted is None:
        raise _Wrong(node, f"got {node.describe()}, expected {expected}" + _meant(kind, node.value))
    if rules.get("path") or (rules.get("model") and _is_model_path(converted)):
        return _path(converted, node)
    return converted


def _is_model_path(model: str) -> bool:
    """Whether a model is named by its place on this machine."""
    return model.startswith((".", "/", "~")) or model.endswith(".safetensors")


def _scalar(kind: Any, text: str, rules: Any) -> Any:
    """Convert the text to `kind`; None if it isn't one that the rules allow."""
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else None
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower())
    if kind in (int, float):
        return parse_number(kind, text, rules)
    if "pattern" in rules and not re.fullmatch(rules["pattern"][0], text):
        return None
    return text or None


def expected_words(kind: Any, rules: Any) -> str:
    """Describe what a type hint and its rules allow: 'a whole number from 1 to 1,000 or null'."""
    if get_origin(kind) in (Union, types.UnionType):
        nothing = AUTO if rules.get("auto") else "null"
        return " or ".join(nothing if k is types.NoneType else expected_words(k, rules) for k in get_args(kind))
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        many = "a list, each item" if rest == [...] else f"{1 + len(rest)} values, each"
        return f"{many} {expected_words(first, rules)}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if kind in (int, float):
        return number_words(kind, rules)
    if "pattern" in rules:
        return rules["pattern"][1]
    return {bool: "true or false", str: "text"}[kind]


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a setting of this type, or an item of its list, is chosen from; empty if it is something else."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in choices(part))


def _meant(kind: Any, text: str) -> str:
    hint = did_you_mean(text, get_args(kind), otherwise="") if get_origin(kind) is Literal else ""
    return f"; {hint}" if hint else ""


def _path(text: str, node: Node) -> str:
    """The absolute path, with `~` and `$NAME` expanded; `$$` is a plain dollar sign."""

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        if name not in os.environ:
            raise _Wrong(node, f"the environment variable {name} is not set: {name}=FOLDER ucd train …")
        return os.environ[name]

    text = os.path.expanduser(re.sub(r"\$(?:\$|(\w+)|\{(\w+)\})", fill, text))
    if text.startswith(HUB):
        dataset = text.removeprefix(HUB)
        return HUB + _path(dataset, node) if _is_model_path(dataset) else text
    return os.path.abspath(os.path.join(node.folder, text))


def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """The dotted names of all settings of a dataclass, and their types."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        found |= leaves(hint, f"{prefix}{name}.") if nested else {prefix + name: hint}
    return found


def _unknown(name: str, prefix: str, siblings: list[str], root: type) -> str:
    everywhere = list(leaves(root))
    moved = [key for key in everywhere if key.rpartition(".")[2] == name]
    hint = did_you_mean(prefix + name, everywhere, otherwise=f"known here: {', '.join(siblings)}")
    hint = did_you_mean(name, siblings, otherwise=hint)
    return f"unknown key; {did_you_mean(moved[0], moved) if moved else hint}"
