"""The mark on a test of a hazard: its row in docs/hazards.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=Callable[..., object])


def hazard(row: str, what: str, does: str, *codes: str) -> Callable[[T], T]:
    """The decorated test is the one for this row; docs/generate.py reads it from the source.

    Args:
        row: letter of the family and number.
        what: what goes wrong in rewriters of models.
        does: what happens here instead.
        codes: with which refusal or error.
    """

    def mark(test: T) -> T:
        return test

    return mark
