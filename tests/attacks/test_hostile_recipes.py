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

from reparamkit.recipe import load_recipe
from reparamkit.recipe.pattern import MAX_NAME, check_pattern, fits
from tests.attacks.corpus import EXTENDS, RECIPES, SLOW_PATTERNS, Attack, recipe_of
from tests.hazards.row import hazard
from tests.hazards.told import raises

NOT_FOUND = ("SECRET.YAML", "~/secret.yaml", "$HOME/secret.yaml")  # names as any other, of nothing that is there

pytestmark = pytest.mark.usefixtures("harmless")


def refused(spec: str | Path, code: str, at: str, *words: str) -> str:
    """The message of the error that a recipe is."""
    with raises(code, at, *words) as caught:
        load_recipe(spec)
    return str(caught.value)


def hostile(row: str) -> pytest.MarkDecorator:
    attacks = [a for a in RECIPES if a.row == row]
    return pytest.mark.parametrize("attack", attacks, ids=[a.name for a in attacks])


@hazard("S1", "YAML tags that make objects or run code", "refused", "RK708")
@hostile("S1")
def test_s1_tags(attack: Attack, attacking: list[str]) -> None:
    refused(attack.text, attack.code, attack.at, "tags are not allowed in a recipe")


@hazard("S2", "aliases that unfold to more than memory holds", "refused", "RK708")
@hostile("S2")
def test_s2_aliases(attack: Attack, attacking: list[str]) -> None:
    said = refused(attack.text, attack.code, attack.at)
    assert re.search("(anchors|aliases|merge keys) are not allowed in a recipe", said)


@hazard("S3", "nesting deeper than the parser's stack", "refused", "RK708")
@hostile("S3")
def test_s3_depth(attack: Attack, attacking: list[str]) -> None:
    refused(attack.text, attack.code, attack.at, "nested deeper than 32 levels")


@hazard("S4", "huge files, numbers and lists", "refused", "RK708")
@hostile("S4")
def test_s4_size(attack: Attack, attacking: list[str]) -> None:
    said = refused(attack.text, attack.code, attack.at)
    assert re.search(r"larger than|more than 10000 values|a second document|expected|Exceeds the limit|too large", said)
    assert len(said) < 50_000


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
    said = refused(child, "RK705" if name in NOT_FOUND else "RK708", f"{child}:3:10", "extends: ")
    assert "swordfish" not in said


@hazard("S6", "templates, variables, imports and expressions in a recipe", "refused", "RK704")
@hostile("S6")
def test_s6_no_value_is_evaluated(attack: Attack, attacking: list[str]) -> None:
    loaded = len(sys.modules)
    if attack.code:
        refused(attack.text, attack.code, attack.at)
    else:
        load_recipe(attack.text)  # it is a name like any other, and matches nothing
    assert "this" not in sys.modules
    assert len(sys.modules) - loaded < 5


@pytest.mark.parametrize("pattern", SLOW_PATTERNS)
@hazard("S7", "expressions whose matching takes for ever", "refused", "RK704")
def test_s7_slow_expressions(pattern: str, attacking: list[str]) -> None:
    refused(recipe_of(f"{{class: 're:{pattern}'}}"), "RK704", "<text>:4:20", "expected")


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
            refused(attack.text, attack.code, attack.at) if attack.code else load_recipe(attack.text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20
