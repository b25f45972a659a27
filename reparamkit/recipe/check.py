"""Plain data -> `Recipe`, or every problem at once with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reparamkit.recipe.model import (
    POLICY_ID,
    RULE_ID,
    Block,
    Expand,
    Expect,
    LayerMatch,
    Match,
    Recipe,
    VerifySpec,
)
from reparamkit.recipe.problem import DataPath, Document, Problem, closest, quoted

if TYPE_CHECKING:
    from reparamkit.branch import BranchOp

Ops = Mapping[str, "BranchOp"]

# The model that a mapping is checked against, by the names on the way to it.
_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Recipe,
    ("blocks",): Block,
    ("blocks", "match"): Match,
    ("blocks", "expect"): Expect,
    ("expand",): Expand,
    ("expand", "match"): LayerMatch,
    ("verify",): VerifySpec,
}
_WORK = ("blocks", "expand", "extends")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
}
_SHAPES = {
    RULE_ID: "a rule id like 'conv_bn' or 'core/conv_bn'",
    POLICY_ID: "a policy like 'cheaper' or 'plugin/name'",
}


def check(document: Document, ops: Ops | None = None) -> Recipe:
    """The document as a recipe.

    Args:
        document: of it.
        ops: operations that its branches may use; by default the built-in ones and those of installed plugins.

    Raises:
        RecipeError: RK702 unknown keys, RK704 wrong values, RK709 and RK710 branches that do not exist or that
            cannot collapse, and what was found while reading.
    """
    problems = list(document.problems)
    try:
        recipe = Recipe.model_validate(document.data, by_alias=True, by_name=False)
    except ValidationError as error:
        details = [one for one in error.errors(include_url=False) if not _is_an_echo(one)]
        found = [_problem(detail) for detail in details]
        problems += [problem for problem in found if not _said_already(problem, document)]
    else:
        problems += _branch_problems(recipe, ops)
    if _is_empty(document.data):
        problems.append(Problem("RK704", "expected 'blocks' or 'expand', got neither"))
    if problems:
        raise document.error(problems)
    return recipe


def _branch_problems(recipe: Recipe, ops: Ops | None) -> list[Problem]:
    if not recipe.expand:
        return []
    # Only here: the operations build modules, and torch takes seconds to import.
    from reparamkit.expand.read import read_section
    from reparamkit.loading import default_registry

    known = default_registry().branch_ops if ops is None else ops
    sections = enumerate(recipe.expand)
    return [p for i, s in sections for p in read_section(s.branches, s, known, ("expand", i, "branches"))[1]]


def _is_an_echo(detail: ErrorDetails) -> bool:
    if detail["type"] == "too_short":
        return bool(detail["input"])  # wrong items, each told by itself, are not counted
    # Pydantic asks whether a recipe does anything only once all its fields are right; `_is_empty`
    # asks in any case, so that all problems are told at once.
    return detail["type"] == "value_error" and detail["loc"] == ()


def _is_empty(data: object) -> bool:
    return isinstance(data, dict) and not any(data.get(key) for key in _WORK)


def _said_already(problem: Problem, document: Document) -> bool:
    path = problem.path
    return any(path[:length] in document.broken for length in range(len(path) + 1))


def _problem(detail: ErrorDetails) -> Problem:
    path = detail["loc"]
    if detail["type"] == "extra_forbidden":
        key = str(path[-1])
        message = f"unknown key {quoted(key)}{closest(key, _keys(path[:-1]))}"
        return Problem("RK702", message, path, at_key=True)
    if detail["type"] == "missing":
        return Problem("RK704", f"missing key '{path[-1]}'", path[:-1])
    return Problem("RK704", _wrong_value(detail), path)


def _keys(path: DataPath) -> list[str]:
    model = _MODELS[tuple(step for step in path if isinstance(step, str))]
    return [info.serialization_alias or name for name, info in model.model_fields.items()]


def _wrong_value(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    got = _describe(detail["input"])
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {got}"
    if kind == "value_error":
        return f"{context['error']}, got {got}"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {got}"
    if kind == "string_pattern_mismatch":
        shape = _SHAPES.get(context["pattern"], "a Python identifier (letters, digits, _)")
        return f"expected {shape}, got {got}"
    if kind == "too_short":
        return "expected at least one item (leave the key out to allow all)"
    return f"{detail['msg'].replace('Input should be', 'expected a value')}, got {got}"


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {quoted(value)}"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**18):
        return f"number {value}"
    if isinstance(value, int):
        return "a very long number"  # in a mapping it may be too long for str()
    return "a list" if isinstance(value, list | tuple) else "a mapping"
