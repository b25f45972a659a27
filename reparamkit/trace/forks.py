"""Decisions of a forward that depend on what it is given: every way through is taken, one trace each.

A forward may ask ``if x.shape[-1] % 2`` or ``isinstance(x, list)``. Nobody knows the answer before the call; but when
all answers are tried, and an edit is right whatever the answer is, nobody needs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_WAYS = 48
_MAX_DECISIONS = 20


class TooManyWays(Exception):
    """There are more ways through a forward than can be looked at."""


@dataclass
class Forks:
    """The decisions of one run.

    Attributes:
        answers: for each question so far: the option taken, how many there are.
        script: options to take first; after them the first one.
        known: questions already answered, by their key.
    """

    script: tuple[int, ...] = ()
    answers: list[tuple[int, int]] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def choose(self, question: str, options: int = 2) -> int:
        """An answer from ``range(options)``; the same question has the same answer.

        Raises:
            TooManyWays: the run has asked too much.
        """
        if question not in self.known:
            position = len(self.answers)
            if position >= _MAX_DECISIONS:
                raise TooManyWays(f"it asks more than {_MAX_DECISIONS} questions about its input")
            taken = self.script[position] if position < len(self.script) else 0
            self.answers.append((taken, options))
            self.known[question] = taken
        return self.known[question]

    def following(self) -> tuple[int, ...] | None:
        """The script of the next run; `None` after the last."""
        left = list(self.answers)
        while left:
            taken, options = left.pop()
            if taken + 1 < options:
                return (*(t for t, _ in left), taken + 1)
        return None


def runs() -> Iterator[Forks]:
    """One `Forks` for each way; the caller runs the forward with each before it takes the next.

    Raises:
        TooManyWays: there is no end to it.
    """
    forks = Forks()
    for _ in range(MAX_WAYS):
        yield forks
        script = forks.following()
        if script is None:
            return
        forks = Forks(script)
    raise TooManyWays(f"there are more than {MAX_WAYS} ways through it")
