"""Recipes drawn from their JSON Schema: every key, of the right type; what the keys mean together is up to chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SCHEMA = json.loads((Path(__file__).parents[2] / "recipes" / "schema.json").read_text(encoding="utf-8"))
Drawn = st.SearchStrategy[Any]
# Text of the kinds that recipes have, and of no kind.
_WORDS = st.sampled_from(
    ["*", "*Block", "0", "1.*", "re:[01]", "re:(", "conv", "3x3", "1x1", "bn", "identity", "fold_bn", "auto", "", "a.b"]
)
_NAMES = st.sampled_from(
    ["core/*", "core/conv", "conv_bn", "branch_sum", "kernel_padding", "unshare", "always", "cheaper", "reparam", "x/y"]
)
_OF_TYPE: dict[str, Drawn] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "integer": st.integers(-1, 4),
    "number": st.sampled_from([1e-3, 1e-9, 1e-12]),
    "string": _WORDS | st.text(max_size=4),
}


def drawn(schema: dict[str, Any] = SCHEMA) -> Drawn:
    """Values that fit a part of the schema, which has no more than this of JSON Schema."""
    if "$ref" in schema:
        return st.deferred(lambda: drawn(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]))
    if "anyOf" in schema:
        return st.one_of(*map(drawn, schema["anyOf"]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "object":
        return _object(schema)
    if schema.get("type") == "array":
        return st.lists(drawn(schema.get("items", {"type": "string"})), min_size=schema.get("minItems", 0), max_size=3)
    if "pattern" in schema:
        return _NAMES | st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) < 20)
    return _OF_TYPE[schema["type"]].filter(lambda value: _within(value, schema))


def _object(schema: dict[str, Any]) -> Drawn:
    known = {name: drawn(part) for name, part in schema.get("properties", {}).items()}
    needed = {name: known.pop(name) for name in schema.get("required", ())}
    fixed = st.fixed_dictionaries(needed, optional=known)
    more = schema.get("additionalProperties", True)
    if more is False:
        return fixed
    others = drawn(more) if isinstance(more, dict) else _OF_TYPE["integer"] | _OF_TYPE["string"]
    return st.builds(lambda a, b: {**b, **a}, fixed, st.dictionaries(_OF_TYPE["string"], others, max_size=2))


def _within(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0)
    return value is None or value >= schema.get("minimum", value)


_MATCHES = st.sampled_from([{"structure": "any"}, {"class": "*Block"}, {"name": "0"}, {"name": "re:[01]"}])
_RULES = st.lists(st.sampled_from(["core/*", "conv", "conv_bn", "branch_sum", "kernel_padding", "unshare"]), min_size=1)


@st.composite
def usable(draw: Any) -> Any:
    """As `drawn`, where the keys that must be right for a recipe to be carried out are."""
    spec = draw(drawn())
    blocks = [
        {**block, "match": draw(_MATCHES), "rules": draw(st.none() | _RULES), "expect": draw(st.none() | st.just({}))}
        for block in (spec.get("blocks") or [{}])
    ]
    right = {"extends": None, "disable": [], "deploy_names": {}, "policy": draw(st.sampled_from(["always", "cheaper"]))}
    return {**{key: spec[key] for key in spec if key != "expand"}, **right, "blocks": blocks}
