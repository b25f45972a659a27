"""progress: long work says how far it is to whoever listens. Nobody does, unless told to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("reparamkit_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener(what, done, total)`` before each step and at the end of long work, in this context only."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def watched(items: Collection[T], what: str) -> Iterator[T]:
    """`items`, one by one.

    Args:
        items: what there is to do.
        what: a word for people.
    """
    listener = _listener.get()
    for done, item in enumerate(items):
        if listener is not None:
            listener(what, done, len(items))
        yield item
    if listener is not None:
        listener(what, len(items), len(items))
