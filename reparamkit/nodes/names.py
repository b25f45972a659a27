"""names: what a node calls."""

from __future__ import annotations

from typing import Any


def name_of(target: Any) -> str:
    """The name of what a node calls: of a function or a method."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))
