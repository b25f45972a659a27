"""Which modules a block matches, and patterns that are refused because they could take forever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from reparamkit.errors import RecipeError
from reparamkit.recipe import Match, load_recipe
from reparamkit.recipe.pattern import MAX_NAME, check_pattern, fits


def match(**keys: Any) -> Match:
    """A match from YAML keys; `cls` stands for `class`."""
    return Match.model_validate({key.replace("cls", "class"): keys[key] for key in keys})


class RepVGGBlock:
    class Inner:
        pass


class Narrow(RepVGGBlock):
    pass


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("RepVGGBlock", True),
        ("*Block", True),
        ("Rep*", True),
        ("repvggblock", False),  # case counts
        ("VGG", False),  # the whole name
        (f"{__name__}.RepVGGBlock", True),
        ("*.RepVGGBlock", True),
        ("elsewhere.RepVGGBlock", False),
        ("re:Rep(VGG|Vgg)Block", True),
        ("re:Rep", False),
        (r"re:.*test_recipe_match\.RepVGGBlock", True),
    ],
)
def test_class(pattern: str, expected: bool) -> None:
    assert match(cls=pattern).matches("a.b", RepVGGBlock()) is expected


def test_class_of_the_module_itself_counts_and_no_base() -> None:
    assert not match(cls="RepVGGBlock").matches("", Narrow())
    assert match(cls="*.RepVGGBlock.Inner").matches("", RepVGGBlock.Inner())


def test_class_made_by_reparamkit_is_seen_through() -> None:
    made = type("Reparamed", (RepVGGBlock,), {"_reparamkit_base": RepVGGBlock})
    again = type("Twice", (made,), {"_reparamkit_base": made})
    own = type("Own", (made,), {})
    for cls in (made, again):
        assert match(cls="RepVGGBlock").matches("", cls())
        assert not match(cls=cls.__name__).matches("", cls())
    # A class that a user derives from ours is the user's.
    assert match(cls="Own").matches("", own())


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("stages.*.0", "stages.1.0", True),
        ("stages.*.0", "stages.1.blocks.0", True),
        ("stages.?.0", "stages.12.0", False),
        ("stages.[12].0", "stages.3.0", False),
        ("stages.1", "stages.1.0", False),
        (r"re:stages\.\d+\.0", "stages.12.0", True),
        (r"re:stages\.\d+\.0", "stages.12.0.conv", False),
        ("*", "", True),
    ],
)
def test_name(pattern: str, path: str, expected: bool) -> None:
    assert match(name=pattern).matches(path, object()) is expected


def test_all_given_keys_must_match() -> None:
    both = match(cls="*Block", name="stem.*", structure="any")
    assert both.matches("stem.0", RepVGGBlock())
    assert not both.matches("head.0", RepVGGBlock())
    assert not both.matches("stem.0", object())
    assert match(structure="any").matches("anything", object())


def test_match_without_keys_is_an_error() -> None:
    with pytest.raises(ValidationError, match="at least one of 'class', 'name' and 'structure'"):
        match()


def test_long_name_never_matches_an_expression() -> None:
    assert fits("re:a+", "a" * MAX_NAME)
    assert not fits("re:a+", "a" * (MAX_NAME + 1))
    assert fits("a*", "a" * (MAX_NAME + 1))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "expected a pattern"),
        ("a" * 201, "at most 200 characters"),
        ("re:" + "a" * 198, "at most 200 characters"),
        ("re:(", "expected a regular expression"),
        ("re:a{99999999999999}", "expected a regular expression"),
        ("re:[[a]", "expected a regular expression"),  # a warning of `re`
        ("re:(a+)+$", "in a repeated group"),
        ("re:(a|a)*", "in a repeated group"),
        ("re:((a?))+", "in a repeated group"),
        ("re:(?:(x)(b{2,3})){5}", "in a repeated group"),
        ("re:(?P<n>a*)*", "in a repeated group"),
        (r"re:(\(|[)])*", "in a repeated group"),
        (r"re:(a)\1", "no back references"),
        (r"re:\x61*\x61*\x61*", "no character codes"),
        ("re:(?P<n>a)(?P=n)", "expected no groups but"),
        ("re:(?=a)a", "expected no groups but"),
        ("re:(?i)a", "expected no groups but"),
        ("re:.*.*.*x", "3 open repetitions"),
        ("re:a*a*a*a*b", "3 open repetitions"),
        (r"re:\d+1\d+1\d+1", "3 open repetitions"),
        (r"re:\w+\.?\w+\.?\w+", "3 open repetitions"),
        ("re:" + "a?" * 12, "12 choices"),
        ("re:" + "(a|a)" * 12, "12 choices"),
        ("re:.*(a|b)?.*(a|b)?", "2 open repetitions and 4 choices"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_refused_pattern(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe({"version": 1, "name": "x", "blocks": [{"match": {"name": pattern}}]})
    assert caught.value.code == "RK704"
    assert "blocks[0].match.name: " in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:stages\.\d+\.blocks\.\d+\.conv\d+",
        r"re:(stem|stages\.[0-3])\..*",
        r"re:.*RepVGG.*",
        r"re:(?:ab)+c",
        r"re:(?P<stage>layer[1-4])\.\d+",
        r"re:[\w.]*\(x\)*",
        r"re:a{3}b{3}c{3}",
        "*a*b*c*d*",
    ],
)
def test_accepted_pattern(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "re:.*.*x",
        "re:a*a*a*b",
        "re:a?a?a?a*a*a*b",
        "re:a?a?a?a?a?a?a?a*a*b",
        "re:" + "(a|a)" * 11 + "b",
        r"re:[^b]*c[^b]*b",
        "*a" * 99 + "b",
    ],
)
def test_slowest_accepted_patterns_end(pattern: str) -> None:
    check_pattern(pattern)
    start = time.perf_counter()
    assert not fits(pattern, "a" * MAX_NAME)
    assert time.perf_counter() - start < 10
