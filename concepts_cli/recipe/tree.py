"""A recipe's YAML as a tree of text, with the line of every value.

YAML's guesses about types are turned off: every value is read as text (`no` stays "no"), and each setting's own type
decides later what the text has to be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from concepts_cli.errors import UcdError, shown, text_of

NULLS = ("", "~", "null", "Null", "NULL")
PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


@dataclass(frozen=True)
class Node:
    """A value as written, with its location: text, a list, a mapping, or None for YAML's null."""

    value: str | list[Node] | dict[str, Node] | None
    where: str  # "recipes/x.yaml:12", "--set train.max_steps=x", or the key itself for a value given in Python
    folder: Path  # base of relative paths: the recipe's folder, or the current one for overrides

    def describe(self) -> str:
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "nothing"
        if set(self.value) <= set("+-.0123456789eE"):
            return shown(self.value)
        return repr(self.value if len(self.value) <= 60 else self.value[:57] + "...")


MOST_SHOWN = 20  # mistakes
MOST_BYTES = 50_000_000  # of a recipe, which may list many files


class Mistakes(list[str]):
    """The mistakes in a recipe, one line each; `keys` are the settings without a usable value."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def add(self, where: str, key: str, problem: str) -> None:
        self.keys.add(key)
        named = not key or where == key or where.startswith(f"--set {key}=")
        self.append(f"{where}: {problem}" if named else f"{where}: {shown(key)}: {problem}")


def read_file(path: Path, mistakes: Mistakes) -> Node:
    """Read the file's mapping. Raises UcdError if it can't be read at all."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UcdError(f"{path}: not a recipe: it has more than {MOST_BYTES:,} bytes")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UcdError(f"{path}: not a recipe: it isn't UTF-8 text") from None
    except OSError as error:
        raise UcdError(f"{path}: {error.strerror}") from None
    node = _read(text, path.parent.absolute(), lambda line: f"{path}:{line}", str(path), mistakes)
    if node.value is None:
        node = dataclasses.replace(node, value={}, where=str(path))
    if not isinstance(node.value, dict):
        raise UcdError(f"{path}: not a recipe: got {node.describe()}, expected settings, one 'key: value' per line")
    return dataclasses.replace(node, where=str(path))


def read_override(text: str, mistakes: Mistakes) -> Node:
    """`train.max_steps=10` as the mapping {train: {max_steps: 10}}."""
    where = f"--set {shown(text, 100)}"
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        mistakes.add(where, "", "expected KEY=VALUE, such as train.max_steps=100")
        return Node({}, where, Path.cwd())
    try:
        node = _read(value, Path.cwd(), lambda line: where, where, mistakes)
    except UcdError as error:
        if value.strip().startswith(("[", "{")):
            mistakes.append(error.message)
            return Node({}, where, Path.cwd())
        node = Node(value.strip(), where, Path.cwd())  # text that YAML needs in quotes, which the shell has removed
    for part in reversed(parts):
        node = Node({part: node}, where, Path.cwd())
    return node


def read_setting(key: str, value: Any) -> Node:
    """Python's `train.max_steps`, 10 as the mapping {train: {max_steps: 10}}; a value may be a mapping itself."""
    node = _node_of(key, value)
    for part in reversed(key.split(".")):
        node = Node({part: node}, key, Path.cwd())
    return node


def read_text(text: str, where: str) -> Node:
    """The mapping in a YAML text that is known to be one."""
    return _read(text, Path.cwd(), lambda line: where, where, Mistakes())


def merge(base: Node, over: Node) -> Node:
    """Override `base` with `over`, mapping by mapping."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return dataclasses.replace(base, value=merged)


def _node_of(key: str, value: Any) -> Node:
    if isinstance(value, Mapping):
        inside = {str(name): _node_of(f"{key}.{name}", item) for name, item in value.items()}
        return Node(inside, key, Path.cwd())
    if isinstance(value, (list, tuple)):
        return Node([_node_of(key, item) for item in value], key, Path.cwd())
    if value is None:
        return Node(None, key, Path.cwd())
    return Node(str(value).lower() if isinstance(value, bool) else text_of(value), key, Path.cwd())


def _read(text: str, folder: Path, at: Callable[[int], str], name: str, mistakes: Mistakes) -> Node:
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
        return Node(None, at(1), folder) if root is None else _Composed(folder, at, mistakes).node(root, root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = ", ".join(filter(None, (error.context, error.problem)))
        hint = "YAML is indented with spaces, not tabs" if r"'\t'" in problem else None
        raise UcdError(f"{at(line)}: not valid YAML: {shown(problem, 200)}", hint) from None
    except yaml.YAMLError:  # such as a control character
        raise UcdError(f"{name}: not a recipe: it contains binary data") from None
    except RecursionError:
        raise UcdError(f"{name}: not a recipe: nested too deeply") from None


class _Composed:
    """Converts PyYAML's node graph, with its anchors and merge keys, to our tree."""

    def __init__(self, folder: Path, at: Callable[[int], str], mistakes: Mistakes):
        self.folder, self.at, self.mistakes = folder, at, mistakes
        self.seen: dict[int, Any] = {}  # anchored lists and mappings are read once
        self.open: set[int] = set()

    def node(self, node: yaml.Node, key: yaml.Node) -> Node:
        """The tree of `node`, located at its `key`: a list begins below its key, but its mistakes name the key."""
        where = self.at(key.start_mark.line + 1)
        if node.tag not in PLAIN_TAGS:
            self.mistakes.add(
                where, "", f"the tag {shown(node.tag.replace('tag:yaml.org,2002:', '!!'))} has no meaning here"
            )
        if isinstance(node, yaml.ScalarNode):
            plain_null = node.style is None and node.value in NULLS
            return Node(None if plain_null else node.value, where, self.folder)
        if id(node) in self.open:
            raise UcdError(f"{where}: not a recipe: it contains itself")
        if id(node) not in self.seen:
            self.open.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                self.seen[id(node)] = [self.node(item, item) for item in node.value]
            elif isinstance(node, yaml.MappingNode):
                self.seen[id(node)] = self.mapping(node)
            self.open.discard(id(node))
        return Node(self.seen[id(node)], where, self.folder)

    def mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        own: dict[str, Node] = {}
        for key, value in node.value:
            where = self.at(key.start_mark.line + 1)
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.add(where, "", "a key must be a word")
            elif key.value == "<<" and key.style is None:
                bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for base in (self.node(base, key) for base in bases):
                    if isinstance(base.value, dict):
                        merged = base.value | merged  # the first base wins, as YAML has it
                    else:
                        self.mistakes.add(where, "", f"<< takes a mapping, got {base.describe()}")
            elif key.value in own:
                first = own[key.value].where.rpartition(":")[2]
                self.mistakes.add(where, "", f"{shown(key.value)}: given twice, first on line {first}")
            else:
                own[key.value] = self.node(value, key)
        return merged | own
