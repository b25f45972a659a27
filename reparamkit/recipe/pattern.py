"""Globs and `re:` expressions over class names and module paths.

A recipe may come from a stranger, so an expression must not be able to stall the process. Python's
`re` backtracks; what makes it explode is choice inside repetition, many repetitions in a row, or
many alternatives. `check_pattern` refuses those forms on the text alone, before anything is
matched. It refuses some harmless expressions too; a glob, or two blocks, says the same.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache

MAX_PATTERN = 200  # characters of a pattern
MAX_NAME = 1000  # a longer name is never matched against an expression
# A repetition whose end is not fixed by what follows multiplies the work by the length of the name,
# a choice (`?`, `|`) doubles it. Two of the one and three of the other take a second at MAX_NAME.
REPEAT_COST, CHOICE_COST, MAX_COST = 4, 1, 11

_CLASS = r"\[\^?\]?(?:\\.|[^\]\\])*\]"
_TOKEN = re.compile(
    rf"(?P<atom>\\.|{_CLASS}|\((?:\?:|\?P<\w+>)?|.)"
    r"(?:(?P<count>[*+?]|\{[^}]*\})[?+]?)?",
    re.DOTALL,
)
_LITERAL = re.compile(r"(\\\W|[\w /:<>=,-])(?![*?{])")
_ESCAPE_OR_CLASS = re.compile(rf"\\.|{_CLASS}", re.DOTALL)
_GROUP_OPENER = re.compile(r"\((?:\?:|\?P<\w+>)")
_INNERMOST = re.compile(r"\(([^()]*)\)([*+{])?")


def fits(pattern: str, name: str) -> bool:
    """Whether the pattern matches the whole name; a glob's `*` also runs over dots."""
    if not pattern.startswith("re:"):
        return fnmatchcase(name, pattern)
    return len(name) <= MAX_NAME and _compiled(pattern[3:]).fullmatch(name) is not None


def class_fits(pattern: str, cls: type) -> bool:
    """Whether the pattern matches the class's bare name or, if it has a dot, module.qualname."""
    qualified = f"{cls.__module__}.{cls.__qualname__}"
    if pattern.startswith("re:"):
        return fits(pattern, cls.__name__) or fits(pattern, qualified)
    return fits(pattern, qualified if "." in pattern else cls.__name__)


def original_class(module: object) -> type:
    """The class the author wrote: classes made by reparamkit are seen through."""
    cls = type(module)
    while "_reparamkit_base" in vars(cls):
        cls = vars(cls)["_reparamkit_base"]
    return cls


def check_pattern(pattern: str) -> str:
    """Return the pattern unchanged.

    Raises:
        ValueError: it is empty or too long, or an expression that does not compile or may blow up.
    """
    if not pattern:
        raise ValueError("expected a pattern")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"expected at most {MAX_PATTERN} characters")
    if pattern.startswith("re:"):
        _check_expression(pattern[3:])
    return pattern


@lru_cache(maxsize=256)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def _check_expression(expression: str) -> None:
    try:
        _compiled(expression)
    # Warning: `re` warns about ambiguous sets, and the caller may have turned warnings into errors.
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    _check_nesting(expression)
    _check_width(expression)


def _check_nesting(expression: str) -> None:
    """Refuse `(a+)+` and its kin: fold groups from the inside out, remembering which ones vary."""
    # Back references can blow up; a character by its code would deceive `_check_width`.
    if re.search(r"\\[0-9xuUN]", expression.replace(r"\\", "")):
        raise ValueError("expected no back references and no character codes")
    flat = _GROUP_OPENER.sub("(", _ESCAPE_OR_CLASS.sub("x", expression))
    if "(?" in flat:
        raise ValueError("expected no groups but (...), (?:...) and (?P<name>...)")
    while group := _INNERMOST.search(flat):
        content, count = group.groups()
        varies = re.search(r"[*+?{|]", content) is not None
        if varies and count:
            raise ValueError("expected no *, +, ?, {} or | in a repeated group (too slow)")
        folded = ("x*" if varies else "x") + (count or "")
        flat = flat[: group.start()] + folded + flat[group.end() :]


def _check_width(expression: str) -> None:
    repeats, choices = 0, expression.count("|")
    for token in _TOKEN.finditer(expression):
        count = token["count"]
        if count is None or re.fullmatch(r"\{\d+\}", count):
            continue
        if count == "?":
            choices += 1
        elif not _ends_by_itself(token["atom"], expression[token.end() :]):
            repeats += 1
    if repeats * REPEAT_COST + choices * CHOICE_COST > MAX_COST:
        counted = f"{repeats} open repetitions and {choices} choices"
        raise ValueError(f"expected an expression that cannot be slow ({counted})")


def _ends_by_itself(atom: str, rest: str) -> bool:
    r"""Whether a repetition can end at one place only: `\d+\.` must end where the digits end."""
    literal = _LITERAL.match(rest)
    if literal is None or atom.startswith(("(", ")")):
        return False
    return re.fullmatch(atom, literal[1][-1], re.DOTALL) is None
