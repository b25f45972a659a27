"""A recipe as plain data with places in its text, and the problems found in it as one exception.

All problems of a file are reported at once, each as

    repvgg.yaml:8:5: unknown key 'fuze' (did you mean 'rules'?)
       7 |   - match: {class: "*RepVGGBlock"}
       8 |     fuze: [conv_bn]
         |     ^
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from reparamkit.errors import RecipeError

DataPath = tuple[str | int, ...]  # ("blocks", 0, "match")
Mark = tuple[int, int]  # line and column, from 0

MAX_REPORTED = 100
_WIDTH = 100  # of a quoted line
# Where PyYAML ends a line; str.splitlines knows some more and would shift the numbers.
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe.

    Attributes:
        code: key of `errors.CODES`.
        message: what is wrong, without the place.
        path: the place in the data; for an unknown key the path ends in that key.
        at_key: the key is meant, not its value.
        mark: the place in the text, where there is no data to point at.
    """

    code: str
    message: str
    path: DataPath = ()
    at_key: bool = False
    mark: Mark | None = None


@dataclass
class Document:
    """Data of one recipe and the way from a place in the data to a place in the text.

    Attributes:
        label: how messages name it, most often the file's path.
        text: the YAML, None if the recipe was given as a mapping.
        data: dicts, lists, text, numbers, booleans and None; nothing else.
        keys: where each key stands.
        values: where each value stands.
        problems: what was found wrong so far.
        broken: paths whose value was refused already, so that nothing more is said about it.
    """

    label: str
    text: str | None = None
    data: Any = None
    keys: dict[DataPath, Mark] = field(default_factory=dict)
    values: dict[DataPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[DataPath] = field(default_factory=set)

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """All problems as one exception, in the order of the text; the code is the first one's."""
        ordered = sorted(problems, key=self.mark)
        shown = [self._render(problem) for problem in ordered[:MAX_REPORTED]]
        if len(ordered) > MAX_REPORTED:
            shown.append(f"... and {len(ordered) - MAX_REPORTED} more")
        return RecipeError(ordered[0].code, "\n".join(shown))

    def mark(self, problem: Problem) -> Mark:
        """Where a problem stands in the text; the nearest thing around it that has a place."""
        if problem.mark is not None:
            return problem.mark
        if problem.at_key and problem.path in self.keys:
            return self.keys[problem.path]
        path = problem.path
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (0, 0))

    def _render(self, problem: Problem) -> str:
        if self.text is None:
            return f"{dotted(problem.path) or self.label}: {problem.message}"
        line, column = self.mark(problem)
        head = f"{self.label}:{line + 1}:{column + 1}: {problem.message}"
        return "\n".join([head, *_snippet(self.text, line, column)])


def quoted(text: str) -> str:
    """Text of a stranger, safe to print and not too long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def closest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or what there is if nothing is near."""
    names = sorted(known)
    near = get_close_matches(word[:60], names, n=1, cutoff=0.4)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(names)})"


def dotted(path: DataPath) -> str:
    """`blocks[0].match` for ("blocks", 0, "match")."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_plain(step)}" for step in path)
    return "".join(steps).lstrip(".")


def _snippet(text: str, line: int, column: int) -> list[str]:
    """The line before, the line, a caret under the column; long lines are cut around it."""
    lines = _LINE_END.split(text)
    start = max(0, column - _WIDTH // 2) if column > _WIDTH - 10 else 0
    shown = [
        f"{number + 1:4} | {_plain(lines[number][start : start + _WIDTH])}"
        for number in (line - 1, line)
        if 0 <= number < len(lines) and (number == line or lines[number].strip())
    ]
    return [row.rstrip() for row in shown] + [f"     | {' ' * (column - start)}^"]


def _plain(text: str) -> str:
    """Without anything a terminal could take for a command; the length stays the same."""
    return "".join(char if char.isprintable() else " " for char in text)
