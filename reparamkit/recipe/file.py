"""Recipe text -> plain data with the place of every key and value; nothing in it can run code.

PyYAML only makes the node tree; numbers and booleans are recognised here, by the YAML 1.2 core
rules, so that `no`, `on`, `1:30`, `010` and dates stay text. What a recipe has no use for (tags,
anchors, aliases, merge keys, several documents) and what could exhaust the machine (size, depth,
count) is refused.
"""

from __future__ import annotations

import itertools
import math
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from reparamkit.errors import RecipeError
from reparamkit.recipe.problem import DataPath, Document, Mark, Problem, quoted

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_DIGITS = 32
SUFFIXES = (".yaml", ".yml")

# Where a node is, and whether it is a scalar: a mapping begins where its first key does.
_Place = tuple[Mark, bool]

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
# No leading zero: YAML 1.1 reads 010 as 8, YAML 1.2 as 10; as text it is a type error, not a guess.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def read_file(path: Path, label: str) -> Document:
    """Read a recipe file.

    Raises:
        RecipeError: RK705 if it cannot be read, RK708 if it is no YAML file of a sensible size, and
            whatever `read_text` finds.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RecipeError("RK708", f"{label}: a recipe file ends in .yaml or .yml")
    try:
        # Before opening: to open a pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecipeError("RK708", f"{label}: not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError("RK705", f"{label}: cannot be read ({reason})") from None
    return read_bytes(content, label)


def read_bytes(content: bytes, label: str) -> Document:
    """Read the bytes of a recipe file, which must be UTF-8."""
    if len(content) > MAX_BYTES:
        raise RecipeError("RK708", f"{label}: larger than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError("RK701", f"{label}: not UTF-8 text (byte {error.start})") from None
    return read_text(text, label)


def read_text(text: str, label: str) -> Document:
    """Read YAML text.

    Returns:
        The data, with the problems that do not prevent reading on.

    Raises:
        RecipeError: the text is no YAML, or it is not safe to go on.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError("RK708", f"{label}: larger than {MAX_BYTES} characters")
    document = Document(label, text)
    try:
        refused = _check_events(document, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise document.error([*document.problems, _syntax_problem(error, text)]) from None
    # PyYAML lets these through: "\UFFFFFFFF", and a %YAML directive of 5000 digits.
    except (ValueError, OverflowError) as error:
        problem = Problem("RK701", f"not valid YAML: {error}", mark=(0, 0))
        raise document.error([*document.problems, problem]) from None
    _Reader(document, refused).read(node)
    return document


def read_mapping(mapping: Mapping[Any, Any], label: str = "recipe") -> Document:
    """Take a recipe that is given as Python data, under the same limits."""
    document = Document(label)
    document.data = _copy(mapping, (), document, itertools.count(1))
    return document


def _check_events(document: Document, text: str) -> set[_Place]:
    """Look at the stream before a tree is built of it; return the nodes that are refused."""
    refused: set[_Place] = set()
    depth = nodes = documents = 0
    aliased = False
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if too_much := _too_much(depth, nodes, documents):
            document.problems.append(Problem("RK708", too_much, mark=_mark(event)))
            raise document.error(document.problems)
        for feature in _features(event):
            message = f"{feature} are not allowed in a recipe"
            document.problems.append(Problem("RK708", message, mark=_mark(event)))
            refused.add((_mark(event), isinstance(event, yaml.ScalarEvent)))
        aliased = aliased or isinstance(event, yaml.AliasEvent)
    if aliased:  # the tree could be endless
        raise document.error(document.problems)
    return refused


def _too_much(depth: int, nodes: int, documents: int) -> str:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if nodes > MAX_NODES:
        return f"more than {MAX_NODES} values"
    if documents > 1:
        return "a second document begins; a recipe file holds one"
    return ""


def _features(event: yaml.Event) -> list[str]:
    if isinstance(event, yaml.AliasEvent):
        return ["aliases"]
    if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
        return []
    found = ["anchors"] if event.anchor is not None else []
    return [*found, "tags"] if event.tag is not None else found


class _Reader:
    """Fills a document from the node tree."""

    def __init__(self, document: Document, refused: set[_Place]) -> None:
        self.document = document
        self.refused = refused

    def read(self, node: yaml.Node | None) -> None:
        self.document.data = None if node is None else self.value(node, ())

    def value(self, node: yaml.Node, path: DataPath) -> Any:
        self.document.values[path] = _mark(node)
        if (_mark(node), isinstance(node, yaml.ScalarNode)) in self.refused:
            self.document.broken.add(path)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def mapping(self, node: yaml.MappingNode, path: DataPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node)
            if key is None:
                continue
            here = (*path, key)
            if key in found:
                line = self.document.keys[here][0] + 1
                message = f"duplicate key {quoted(key)} (first on line {line})"
                self.problem("RK703", message, key_node)
                continue
            self.document.keys[here] = _mark(key_node)
            found[key] = self.value(value_node, here)
        return found

    def key(self, node: yaml.Node) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self.problem("RK704", "expected text as a key, got a list or a mapping", node)
        elif node.style is None and node.value == "<<":
            self.problem("RK708", "merge keys are not allowed in a recipe", node)
        elif node.style is None and not isinstance(_plain_scalar(node.value), str):
            message = f"expected text as a key, got {quoted(node.value)} without quotes"
            self.problem("RK704", message, node)
        else:
            return str(node.value)
        return None

    def scalar(self, node: yaml.ScalarNode, path: DataPath) -> Any:
        if node.style is not None:
            return node.value
        value = _plain_scalar(node.value)
        if value is _TOO_LONG:
            self.document.broken.add(path)
            message = f"expected a number of at most {MAX_DIGITS} digits, got {len(node.value)}"
            self.problem("RK704", message, node)
        return value

    def problem(self, code: str, message: str, node: yaml.Node) -> None:
        self.document.problems.append(Problem(code, message, mark=_mark(node)))


_TOO_LONG = object()


def _plain_scalar(text: str) -> Any:
    """What an unquoted word means in the YAML 1.2 core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        # Long ones make int() raise, and no key of a recipe needs them.
        return int(text, 0) if len(text) <= MAX_DIGITS else _TOO_LONG
    if _FLOAT.fullmatch(text):
        return float(text) if len(text) <= MAX_DIGITS else _TOO_LONG
    if match := _NOT_FINITE.fullmatch(text):
        return math.nan if match[1] is None else float(f"{match[1]}inf")
    return text


def _copy(value: object, path: DataPath, document: Document, count: Iterator[int]) -> Any:
    """A copy made of dicts and lists only, so that nothing behind the data is called later on."""
    if next(count) > MAX_NODES or len(path) > MAX_DEPTH:
        message = f"more than {MAX_NODES} values or {MAX_DEPTH} levels"
        raise document.error([Problem("RK708", message, path[:4])])
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"expected text as a key, got {type(key).__name__}"
                document.problems.append(Problem("RK704", message, path))
        texts = [(key, item) for key, item in value.items() if isinstance(key, str)]
        return {key: _copy(item, (*path, key), document, count) for key, item in texts}
    if isinstance(value, list | tuple):
        return [_copy(item, (*path, index), document, count) for index, item in enumerate(value)]
    if value is not None and not isinstance(value, str | int | float):
        message = f"expected text, a number, a list or a mapping, got {type(value).__name__}"
        document.problems.append(Problem("RK704", message, path))
        document.broken.add(path)
        return None
    return value


def _mark(thing: yaml.Node | yaml.Event) -> Mark:
    mark = thing.start_mark
    return (mark.line, mark.column) if mark else (0, 0)


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        place = (mark.line, mark.column) if mark else (0, 0)
        return Problem("RK701", f"not valid YAML: {', '.join(parts)}", mark=place)
    position = getattr(error, "position", 0)
    before = text[:position]
    place = (before.count("\n"), position - before.rfind("\n") - 1)
    return Problem("RK701", "not valid YAML: a character that YAML does not allow", mark=place)
