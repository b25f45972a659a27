"""remember: what was found out about a class, a function or its code, for as long as that is there itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

K = TypeVar("K")
R = TypeVar("R")


def remembered(function: Callable[[K], R]) -> Callable[[K], R]:
    """`function`, run once for each argument; neither the argument nor what is known about it is kept alive.

    What it returns must not point at its argument, or that would never go. For an argument to which there is no weak
    reference, or that has no hash, it is run each time.
    """
    known: WeakKeyDictionary[K, R] = WeakKeyDictionary()

    @functools.wraps(function)
    def run(of: K) -> R:
        try:
            return known[of]
        except TypeError:
            return function(of)
        except KeyError:
            made = known[of] = function(of)
            return made

    return run
