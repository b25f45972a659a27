"""Errors of a recipe file: code, place, message, and that all of them come at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from reparamkit.errors import RecipeError
from reparamkit.recipe import load_recipe
from reparamkit.recipe.file import read_text

HEAD = "version: 1\nname: x\n"
BLOCK = "blocks:\n  - match: {class: A}\n"  # lines 3 and 4 behind HEAD


def error_of(spec: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(spec)
    return caught.value


def heads(error: RecipeError) -> list[str]:
    """The lines of a message that say what is wrong, without code and snippets."""
    text = str(error).split(": ", 1)[1]
    return [line.removeprefix("<text>:") for line in text.split("\n") if " | " not in f"{line} "]


def test_message_shape(tmp_path: Path) -> None:
    file = tmp_path / "repvgg.yaml"
    file.write_text(
        'version: 1\nname: x\n\n\n\nblocks:\n  - match: {class: "*RepVGGBlock"}\n    fuze: [conv_bn]\n',
        encoding="utf-8",
    )
    assert str(error_of(file)) == (
        f"RK702 unknown key: {file}:8:5: unknown key 'fuze' (did you mean 'rules'?)\n"
        '   7 |   - match: {class: "*RepVGGBlock"}\n'
        "   8 |     fuze: [conv_bn]\n"
        "     |     ^"
    )


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        # syntax
        ("a: [1\n", "RK701", "2:1: not valid YAML: while parsing a flow sequence, "),
        ("a: b: c\n", "RK701", "1:5: not valid YAML: mapping values are not allowed here"),
        ("a:\n\t- b\n", "RK701", "2:1: not valid YAML: "),
        ("a: b\nc: \x07\n", "RK701", "2:4: not valid YAML: a character that YAML does not allow"),
        ("a: \ud800\n", "RK701", "1:4: not valid YAML: a character that YAML does not allow"),
        ('a: "\\UFFFFFFFF"\n', "RK701", "1:1: not valid YAML: "),
        ("%YAML 3.0\n--- a\n", "RK701", "1:1: not valid YAML: "),
        ("%YAML 1." + "9" * 5000 + "\n--- a\n", "RK701", "1:1: not valid YAML: "),
        ("a: *b\n", "RK708", "1:4: aliases are not allowed in a recipe"),
        # what a recipe has no use for
        (HEAD + "--- \n" + HEAD, "RK708", "3:1: a second document begins"),
        (HEAD + "source: &a b\n" + BLOCK, "RK708", "3:9: anchors are not allowed in a recipe"),
        (HEAD + "source: !!str b\n" + BLOCK, "RK708", "3:9: tags are not allowed in a recipe"),
        (HEAD + "source: ! b\n" + BLOCK, "RK708", "3:9: tags are not allowed in a recipe"),
        (HEAD + "<<: {a: b}\n" + BLOCK, "RK708", "3:1: merge keys are not allowed in a recipe"),
        ("a: " + "[" * 40 + "\n", "RK708", "1:35: nested deeper than 32 levels"),
        ("[" + "a," * 10001 + "]\n", "RK708", "1:20000: more than 10000 values"),
        # keys
        (HEAD + BLOCK + "name: y\n", "RK703", "5:1: duplicate key 'name' (first on line 2)"),
        (HEAD + BLOCK + '"name": y\n', "RK703", "5:1: duplicate key 'name' (first on line 2)"),
        (HEAD + BLOCK + "1: y\n", "RK704", "5:1: expected text as a key, got '1' without quotes"),
        (HEAD + BLOCK + "? [a]\n: b\n", "RK704", "5:3: expected text as a key, got a list"),
        (
            HEAD + BLOCK + "pollicy: a\n",
            "RK702",
            "5:1: unknown key 'pollicy' (did you mean 'policy'",
        ),
        (HEAD + BLOCK + "qqq: a\n", "RK702", "5:1: unknown key 'qqq' (known: blocks, deploy_names, description,"),
        ("version: 1\n" + BLOCK + "\n", "RK704", "1:1: missing key 'name'"),
        (HEAD + "blocks: [{rules: [a]}]\n", "RK704", "3:10: missing key 'match'"),
        (
            HEAD + BLOCK + "    match_: 1\n",
            "RK702",
            "5:5: unknown key 'match_' (did you mean 'match'",
        ),
        (
            HEAD + "blocks: [match: {class_: A}]\n",
            "RK702",
            "3:18: unknown key 'class_' (did you mean",
        ),
        # values
        ("\n", "RK704", "1:1: expected a mapping, got nothing"),
        ("- a\n", "RK704", "1:1: expected a mapping, got a list"),
        ("just text\n", "RK704", "1:1: expected a mapping, got text 'just text'"),
        (HEAD, "RK704", "1:1: expected 'blocks' or 'expand', got neither"),
        (HEAD + "blocks: []\n", "RK704", "1:1: expected 'blocks' or 'expand', got neither"),
        (HEAD + "blocks: a\n", "RK704", "3:9: expected a list, got text 'a'"),
        (HEAD + "blocks: [a]\n", "RK704", "3:10: expected a mapping, got text 'a'"),
        (HEAD + "blocks: [match: {}]\n", "RK704", "3:17: expected at least one of 'class', 'name'"),
        (HEAD + "blocks: [match: {structure: x}]\n", "RK704", "3:29: expected 'any', got text 'x'"),
        (HEAD + "blocks: [match: {class: 1}]\n", "RK704", "3:25: expected text, got number 1"),
        (
            HEAD + "blocks: [match: {name: 're:('}]\n",
            "RK704",
            "3:24: expected a regular expression (",
        ),
        (HEAD + BLOCK + "    rules: conv\n", "RK704", "5:12: expected a list, got text 'conv'"),
        (HEAD + BLOCK + "    rules: []\n", "RK704", "5:12: expected at least one item"),
        (
            HEAD + BLOCK + "    rules: [os.x]\n",
            "RK704",
            "5:13: expected a rule id like 'conv_bn' or",
        ),
        (
            HEAD + BLOCK + "    rules: [a/b/c]\n",
            "RK704",
            "5:13: expected a rule id like 'conv_bn' or",
        ),
        (HEAD + BLOCK + "    into: a.b\n", "RK704", "5:11: expected a Python identifier"),
        (
            HEAD + BLOCK + "    into: class\n",
            "RK704",
            "5:11: expected an attribute name, not a Python",
        ),
        (
            HEAD + BLOCK + "    optional: yes\n",
            "RK704",
            "5:15: expected true or false, got text 'yes'",
        ),
        (
            HEAD + BLOCK + "    expect: {convs: -1}\n",
            "RK704",
            "5:21: expected a value greater than or",
        ),
        (
            HEAD + BLOCK + "    expect: {convs: 1.0}\n",
            "RK704",
            "5:21: expected a whole number, got",
        ),
        (
            HEAD + BLOCK + "    expect: {convs: true}\n",
            "RK704",
            "5:21: expected a whole number, got tr",
        ),
        (
            HEAD + BLOCK + "    expect: {convs: 010}\n",
            "RK704",
            "5:21: expected a whole number, got te",
        ),
        (
            HEAD + BLOCK + "verify: {rtol: .nan}\n",
            "RK704",
            "5:16: expected a value less than or equal to 0",
        ),
        (
            HEAD + BLOCK + "verify: {rtol: 0}\n",
            "RK704",
            "5:16: expected a value greater than 0, got",
        ),
        (
            HEAD + BLOCK + "verify: {rtol: 0.1}\n",
            "RK704",
            "5:16: expected a value less than or equal",
        ),
        (
            HEAD + BLOCK + "verify: {dtype: half}\n",
            "RK704",
            "5:17: expected 'float64', got text 'half'",
        ),
        (HEAD + BLOCK + "policy: ../x\n", "RK704", "5:9: expected a policy like 'cheaper' or"),
        (HEAD + BLOCK + "disable: [a b]\n", "RK704", "5:11: expected a rule id like 'conv_bn' or"),
        (HEAD + "expand: [3]\n", "RK704", "3:10: expected a mapping, got number 3"),
        ("version: 2\nname: x\n" + BLOCK, "RK704", "1:10: expected 1, got number 2"),
        ("version: true\nname: x\n" + BLOCK, "RK704", "1:10: expected the number 1, got true"),
        ("version: 1.0\nname: x\n" + BLOCK, "RK704", "1:10: expected the number 1, got number 1.0"),
        (
            "version: " + "1" * 5000 + "\nname: x\n" + BLOCK,
            "RK704",
            "1:10: expected a number of at mo",
        ),
        ("version: 1\nname: ~\n" + BLOCK, "RK704", "2:7: expected text, got nothing"),
    ],
)
def test_each_error(text: str, code: str, place: str) -> None:
    error = error_of(text)
    found = heads(error)
    assert len(found) == 1, found
    assert found[0].startswith(place)
    assert error.code == code


def test_all_errors_come_at_once_in_the_order_of_the_text() -> None:
    error = error_of(
        "version: 2\n"
        "nam: x\n"
        "blocks:\n"
        "  - match: {class: A}\n"
        "    rulez: [conv]\n"
        "    into: a-b\n"
        "    into: c\n"
        "  - match: !!map {structure: all}\n"
        "verify: {rtol: 1}\n"
    )
    assert error.code == "RK704"
    assert [line.split(": ")[0] for line in heads(error)] == [
        "1:1",  # name is missing
        "1:10",
        "2:1",
        "5:5",
        "6:11",
        "7:5",
        "8:12",  # nothing about what the tag stands before
        "9:16",
    ]


def test_tag_hides_what_it_stands_before_and_nothing_else() -> None:
    assert [line.split(": ")[0] for line in heads(error_of(HEAD + BLOCK + "policy: !!int 1\n"))] == ["5:9"]
    error = error_of(f"!!str version: 1\nname: 2\n{BLOCK}")
    assert [line.split(": ")[0] for line in heads(error)] == ["1:1", "2:7"]


def test_many_errors_are_cut() -> None:
    error = error_of(HEAD + BLOCK + "".join(f"key{number}: 1\n" for number in range(150)))
    assert "key99" in str(error)
    assert "key100" not in str(error)
    assert str(error).endswith("... and 50 more")


def test_tagged_code_is_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    text = f"{HEAD}source: !!python/object/apply:os.mkdir ['{witness}']\n{BLOCK}"
    assert error_of(text).code == "RK708"
    assert not witness.exists()


def test_aliases_are_all_named_and_never_followed() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{last}, *{last}]\n" for last, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    error = error_of(bomb)
    assert error.code == "RK708"
    assert sum("aliases" in line for line in heads(error)) == 14
    assert error_of("a: &a [*a]\n").code == "RK708"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: " + "x" * 1_000_000 + "\n",
        "x" * 1_000_000 + ": a\n",
        'a: "' + "\\x41" * 200_000 + '"\n',
        "#" * 1_000_000 + "\n",
        "- a\n" * 250_000,
        "a: " + "9" * 1_000_000 + "\n",
        "\n" * 1_000_000,
        "!" * 500_000 + "\n",
        "&" * 500_000 + "\n",
        "key: 1\n" * 4000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_hostile_size_ends_soon(text: str) -> None:
    start = time.perf_counter()
    assert len(str(error_of(text + "\n"))) < 50_000
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-9", 1e-9),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("١", "١"),  # a digit, but none of ours # noqa: RUF001
    ],
)
def test_words_follow_yaml_1_2(word: str, value: object) -> None:
    data = read_text(f"a: {word}\n", "x").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


@pytest.mark.parametrize("key", ["yes", "on", "no", "2024-01-01"])
def test_keys_follow_yaml_1_2(key: str) -> None:
    assert read_text(f"{key}: a\n", "x").data == {key: "a"}


def test_snippet_is_cut_around_the_caret_and_safe_to_print() -> None:
    error = error_of(HEAD + BLOCK + "verify: {" + " " * 500 + 'bad: "\x85\t' + "x" * 500 + '"}\n')
    line, caret = str(error).split("\n")[-2:]
    assert len(line) < 120
    assert line[caret.index("^")] == "b"
    hostile = error_of(HEAD + BLOCK + '"\\e]0;title\\a\\n": 1\n')
    assert "unknown key '\\x1b]0;title\\x07\\n'" in str(hostile)
    raw = str(error_of("a: \x1b]0;title\x07\n"))
    assert raw.endswith("   1 | a:  ]0;title\n     |    ^")


def test_line_numbers_agree_with_the_snippet_for_every_line_end() -> None:
    for end in ("\n", "\r\n", "\r", "\u2028", "\x85"):
        text = (HEAD + "description: 'a\x0cb'\n" if end == "\n" else HEAD) + BLOCK + "qqq: 1\n"
        error = error_of(text.replace("\x0c", "").replace("\n", end) + "\n")
        assert "  qqq: 1".strip() in str(error).split("\n")[-2]


class TestMappings:
    def test_errors_name_the_data_path(self) -> None:
        error = error_of(
            {
                "version": 1,
                "name": "x",
                "blocks": [{"match": {"class": "A"}}, {"match": {"klass": "A"}, "fuze": []}],
                "verify": {"rtol": "1"},
            }
        )
        assert heads(error) == [
            "blocks[1].match.klass: unknown key 'klass' (did you mean 'class'?)",
            "blocks[1].fuze: unknown key 'fuze' (did you mean 'rules'?)",
            "verify.rtol: expected a number, got text '1'",
        ]
        assert error.code == "RK702"

    def test_whole_recipe(self) -> None:
        assert heads(error_of({})) == [
            "recipe: missing key 'version'",
            "recipe: missing key 'name'",
            "recipe: expected 'blocks' or 'expand', got neither",
        ]

    def test_values_are_data_and_keys_are_text(self) -> None:
        error = error_of({"version": 1, "name": print, "expand": [{"match": {1, 2}, "branches": object()}], 3: 4})
        kind = "expected text, a number, a list or a mapping, got"
        assert sorted(heads(error)) == [
            f"expand[0].branches: {kind} object",
            f"expand[0].match: {kind} set",
            f"name: {kind} builtin_function_or_method",
            "recipe: expected text as a key, got int",
        ]

    def test_endless_and_deep_and_large(self) -> None:
        endless: dict[str, Any] = {}
        endless["a"] = endless
        for spec in (endless, {"a": [0] * 10_001}):
            error = error_of(spec)
            assert error.code == "RK708"
            assert "more than 10000 values or 32 levels" in str(error)

    def test_huge_number_is_not_printed(self) -> None:
        spec = {"version": 10**5000, "name": "x", "blocks": [{"match": {"name": "a"}}]}
        assert heads(error_of(spec)) == ["version: expected a smaller number, got a very long number"]

    def test_the_recipe_does_not_change_with_the_mapping(self) -> None:
        spec: dict[str, Any] = {"version": 1, "name": "x", "expand": [{"match": {}, "branches": [["conv"]]}]}
        recipe = load_recipe(spec)
        spec["expand"][0]["branches"][0].append("bn")
        assert recipe.expand[0].branches == (["conv"],)
