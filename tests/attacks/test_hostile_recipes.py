"""Recipes from strangers: they are data, and small."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from reparamkit.errors import RecipeError
from reparamkit.recipe import load_recipe
from reparamkit.recipe.pattern import MAX_NAME, check_pattern, fits
from tests.attacks.corpus import EXTENDS, RECIPES, SLOW_PATTERNS, recipe_of
from tests.hazards.row import hazard

pytestmark = pytest.mark.usefixtures("harmless")


def refused(spec: str | Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(spec)
    return caught.value


def hostile(row: str) -> pytest.MarkDecorator:
    cases = [(a.text, a.code) for a in RECIPES if a.row == row]
    return pytest.mark.parametrize(("text", "code"), cases, ids=[a.name for a in RECIPES if a.row == row])


@hazard("S1", "YAML tags that make objects or run code", "refused", "RK708")
@hostile("S1")
def test_s1_tags(text: str, code: str, attacking: list[str]) -> None:
    error = refused(text)
    assert error.code == code
    assert "tags are not allowed in a recipe" in str(error)


@hazard("S2", "aliases that unfold to more than memory holds", "refused", "RK708")
@hostile("S2")
def test_s2_aliases(text: str, code: str, attacking: list[str]) -> None:
    error = refused(text)
    assert error.code == code
    assert re.search("(anchors|aliases|merge keys) are not allowed in a recipe", str(error))


@hazard("S3", "nesting deeper than the parser's stack", "refused", "RK708")
@hostile("S3")
def test_s3_depth(text: str, code: str, attacking: list[str]) -> None:
    error = refused(text)
    assert error.code == code
    assert "<text>:1:" in str(error)
    assert "nested deeper than 32 levels" in str(error)


@hazard("S4", "huge files, numbers and lists", "refused", "RK708")
@hostile("S4")
def test_s4_size(text: str, code: str, attacking: list[str]) -> None:
    error = refused(text)
    assert error.code == code
    assert re.search(
        r"larger than|more than 10000 values|a second document|expected|Exceeds the limit|too large", str(error)
    )
    assert len(str(error)) < 50_000


@hazard("S4", "the whole corpus in bounded time and memory", "refused", "RK708")
def test_s4_the_whole_corpus_stays_within_limits() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    code = "from tests.attacks.corpus import try_all; print(try_all())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, preexec_fn=limit)
    assert done.stdout.strip() == str(len(RECIPES)), done.stderr[-2000:]


@pytest.mark.parametrize("name", EXTENDS)
@hazard("S5", "extends that leads out of the recipe's folder", "refused", "RK708")
def test_s5_extends(name: str, harmless: Path, attacking: list[str]) -> None:
    secret = harmless / "secret.yaml"
    secret.write_text("password: swordfish\n")
    (harmless / "own").mkdir()
    (harmless / "own" / "link.yaml").symlink_to(secret)
    child = harmless / "own" / "child.yaml"
    child.write_text(f"version: 1\nname: x\nextends: {name}\n")
    attacking.clear()  # the test itself wrote these
    error = refused(child)
    assert error.code in ("RK708", "RK705")
    assert "extends" in str(error)
    assert "swordfish" not in str(error)


@hazard("S6", "templates, variables, imports and expressions in a recipe", "refused", "RK704")
@hostile("S6")
def test_s6_no_value_is_evaluated(text: str, code: str, attacking: list[str]) -> None:
    loaded = len(sys.modules)
    if code:
        error = refused(text)
        assert error.code == code
        assert "<text>:5:" in str(error)
    else:
        load_recipe(text)  # it is a name like any other, and matches nothing
    assert "this" not in sys.modules
    assert len(sys.modules) - loaded < 5


@pytest.mark.parametrize("pattern", SLOW_PATTERNS)
@hazard("S7", "expressions whose matching takes for ever", "refused", "RK704")
def test_s7_slow_expressions(pattern: str, attacking: list[str]) -> None:
    error = refused(recipe_of(f"{{class: 're:{pattern}'}}"))
    assert error.code == "RK704"
    assert "<text>:4:20: expected" in str(error)


@pytest.mark.parametrize("pattern", [r"(?:a|b)*c", r"\w+Block\w*", r"[ab]+x?", "*a*a*a*a*a*a*a*b"])
@hazard("S7", "expressions that are let through, on the longest name", "harmless")
def test_s7_what_is_let_through_is_quick(pattern: str, attacking: list[str]) -> None:
    expression = pattern if pattern.startswith("*") else f"re:{pattern}"
    try:
        check_pattern(expression)
    except ValueError:
        return
    start = time.process_time()
    assert not fits(expression, "ab" * (MAX_NAME // 2) + "!")
    assert time.process_time() - start < 30  # for ever would be longer


def test_refusing_costs_little_memory(attacking: list[str]) -> None:
    tracemalloc.start()
    try:
        for attack in RECIPES:
            refused(attack.text) if attack.code else load_recipe(attack.text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20
