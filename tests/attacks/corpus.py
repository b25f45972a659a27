"""Hostile recipes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """A recipe that means harm.

    Attributes:
        row: of the table of hazards.
        name: what it tries.
        text: the YAML.
        code: that it is refused with; empty when it is harmless as it is.
        at: file, line and column that the error names; empty where it is about the whole.
    """

    row: str
    name: str
    text: str
    code: str
    at: str = ""


def recipe_of(match: str) -> str:
    """A recipe with one block that matches this."""
    return f"version: 1\nname: x\nblocks:\n  - match: {match}\n"


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


_TAGS = {
    "os.system": "!!python/object/apply:os.system ['touch harmed']",
    "subprocess": "!!python/object/apply:subprocess.Popen [['touch', 'harmed']]",
    "new": "!!python/object/new:os.system ['touch harmed']",
    "module": "!!python/module:antigravity ''",
    "name": "!!python/name:os.system ''",
    "object": "!!python/object:reparamkit.Recipe {}",
    "bytes": "!!binary aGVsbG8=",
    "local": "!Ref x",
    "verbatim": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch harmed']",
    "plain text": "!!str x",
}
_GOOD = recipe_of("{class: A}")
_LONG = "x" * 2_000_000

RECIPES: tuple[Attack, ...] = (
    *(Attack("S1", name, f"{_GOOD}source: {value}\n", "RK708", "<text>:5:9") for name, value in _TAGS.items()),
    Attack(
        "S1", "as a key", f"{_GOOD}? !!python/object/apply:os.system ['touch harmed']\n: 1\n", "RK708", "<text>:5:3"
    ),
    Attack("S2", "bomb of 8 levels", _bomb(8), "RK708", "<text>:1:5"),
    Attack("S2", "itself", "a: &a [*a]\n", "RK708", "<text>:1:4"),
    Attack("S2", "merge keys", f"{_GOOD}<<: {{a: 1}}\n", "RK708", "<text>:5:1"),
    Attack("S2", "anchor alone", f"{_GOOD}source: &n x\n", "RK708", "<text>:5:9"),
    Attack("S3", "lists", "[" * 100_000 + "\n", "RK708", "<text>:1:33"),
    Attack("S3", "mappings", "{a: " * 100_000 + "\n", "RK708", "<text>:1:129"),
    Attack("S3", "lists in a row", "- " * 100_000 + "\n", "RK708", "<text>:1:65"),
    Attack("S3", "keys of keys", "? " * 100_000 + "\n", "RK708", "<text>:1:65"),
    Attack("S4", "two million characters", f"name: {_LONG}\n", "RK708", "<text>"),
    Attack("S4", "list of 20000", "a: [" + "x, " * 20_000 + "]\n", "RK708", "<text>:1:29996"),
    Attack("S4", "number of 5000 digits", f"version: {'9' * 5000}\nname: x\n", "RK704", "<text>:1:10"),
    Attack("S4", "exponent", "version: 1\nname: x\nverify: {rtol: 1e999999999}\n", "RK704", "<text>:3:16"),
    Attack("S4", "documents", "---\na: 1\n" * 5000, "RK708", "<text>:3:1"),
    Attack("S4", "directive of 5000 digits", f"%YAML 1.{'1' * 5000}\n---\na: 1\n", "RK701", "<text>:1:1"),
    Attack("S4", "escape beyond Unicode", 'name: "\\UFFFFFFFF"\n', "RK701", "<text>:1:1"),
    Attack("S6", "Jinja", recipe_of("""{class: "{{ ''.__class__.__mro__ }}"}"""), ""),
    Attack("S6", "environment", recipe_of('{class: "${HOME}"}'), ""),
    Attack("S6", "shell", recipe_of("{class: '$(touch harmed)'}"), ""),
    Attack("S6", "import", recipe_of("{class: this.Zen}"), ""),
    Attack("S6", "class to import", recipe_of("{class: \"__import__('os').system('touch harmed')\"}"), ""),
    Attack("S6", "rule to import", f"{_GOOD}    rules: [os.system]\n", "RK704", "<text>:5:13"),
    Attack("S6", "code as a rule", f"{_GOOD}    rules: [{{eval: x}}]\n", "RK704", "<text>:5:13"),
    Attack("S6", "key to run", f"{_GOOD}run: touch harmed\n", "RK702", "<text>:5:1"),
    Attack("S6", "name with a path", "version: 1\nname: ../../harmed\nblocks:\n  - match: {class: A}\n", ""),
)

EXTENDS = (
    *("../secret.yaml", "../../../../etc/passwd", "/etc/passwd", "/etc/hostname.yaml", "link.yaml", "./../secret.yaml"),
    *("file:///etc/passwd", "http://localhost/a.yaml", "\\\\host\\share\\a.yaml", "C:\\a.yaml", "SECRET.YAML"),
    *('"a\\0.yaml"', "~/secret.yaml", "$HOME/secret.yaml", "/dev/zero", "/proc/self/environ", "own/../../secret.yaml"),
)

SLOW_PATTERNS = (
    *("(a+)+$", "(a|a)*$", "(a*)*b", "(.*a){20}", "([a-z]+)*$", "(a?){30}a{30}", "^(a|b|ab)*c", r"(a)\1+"),
    *("a*a*a*a*b", "(?=a+)+", "(?P<x>a+)+", ".*.*.*=.*", "a{1,999}{1,999}", "x" * 300),
)


def try_all() -> int:
    """Read every hostile recipe; how many were refused as they should, or harmless."""
    from reparamkit.errors import RecipeError
    from reparamkit.recipe import load_recipe

    right = 0
    for attack in RECIPES:
        code = ""
        try:
            load_recipe(attack.text)
        except RecipeError as error:
            code = error.code
        right += code == attack.code
    return right
