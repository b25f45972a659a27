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


def tell(what: str, done: int, total: int) -> None:
    """Say how far long work is that has no list of steps."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


def watched(items: Collection[T], what: str) -> Iterator[T]:
    """`items`, one by one.

    Args:
        items: what there is to do.
        what: a word for people.
    """
    for done, item in enumerate(items):
        tell(what, done, len(items))
        yield item
    tell(what, len(items), len(items))
