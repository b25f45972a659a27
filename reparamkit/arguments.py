"""What a user may give as `example_inputs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments from what a user gives as `example_inputs`."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}
