"""Whatever the input, a recipe loads or a RecipeError says why not."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reparamkit.errors import CODES, RecipeError
from reparamkit.recipe import Recipe, load_recipe, shipped_recipes
from reparamkit.recipe.pattern import check_pattern, fits

SHIPPED = [file.read_text(encoding="utf-8") for file in shipped_recipes().values()]
WORDS = [
    *["version", "name", "blocks", "match", "class", "rules", "into", "expect", "extends"],
    *[": ", "- ", "[", "]", "{", "}", ",", "\n", "\n  ", "1", "1e-9", "any", "auto", "re:(a+)+"],
    *["&a ", "*a", "!!str ", "<<", "? ", "|", ">", "'", '"', "#", "%YAML 1.1", "---", "...", "~"],
    *["\t", "\x85", "\u2028", "\ufeff", "\\", "\0", "\x1b", "é", "\U0001f600", "\ud800"],
]
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS[:9]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def load(spec: Any) -> None:
    outcome = result_of(spec)
    if isinstance(outcome, Recipe):
        assert outcome.extends is None
        return
    message = str(outcome)
    assert outcome.code in CODES
    assert len(message) < 100_000
    assert message.encode()
    if isinstance(spec, str) and "\n" in spec:
        assert re.match(rf"{outcome.code} [^:]+: <text>:\d+:\d+: \S", message)


def result_of(spec: Any) -> Recipe | RecipeError:
    try:
        return load_recipe(spec)
    except RecipeError as error:
        return error


@settings(deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    load(text + "\n")


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join))
def test_text_of_yaml_words(text: str) -> None:
    load(text + "\n")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SHIPPED), st.data())
def test_shipped_text_with_a_fault(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    load(text[:start] + data.draw(st.sampled_from(["", *WORDS]) | st.text(max_size=3)) + text[end:])


@settings(deadline=None)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-16")))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe")
def test_any_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_bytes(content)
        load(file)


@settings(deadline=None)
@given(st.text())
def test_any_name(name: str) -> None:
    load(name.replace("/", "").replace("~", ""))


@settings(deadline=None, max_examples=300)
@given(DATA, st.booleans())
def test_any_mapping(data: Any, under_blocks: bool) -> None:
    good = {"version": 1, "name": "x", "blocks": [{"match": {"class": "A"}}]}
    load({**good, "blocks": data} if under_blocks else {**good, "more": data})
    load(data if isinstance(data, dict) else {"blocks": data})


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from(list("ab.*+?|(){}[]^$\\1,:")) | st.characters(), max_size=20).map("".join),
    st.text("ab.", max_size=40),
)
@pytest.mark.filterwarnings("error")
def test_any_pattern(expression: str, name: str) -> None:
    try:
        check_pattern(f"re:{expression}")
    except ValueError:
        return
    assert fits(f"re:{expression}", name) in (True, False)
