"""nested: what a model returns, taken apart into lists and dictionaries of tensors and plain values."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

_WHOLE = (Tensor, str, bytes, int, float, complex, type)


def plain(tree: Any, around: frozenset[int] = frozenset()) -> Any:
    """`tree` with output objects (a ModelOutput, a dataclass, a distribution) as dictionaries, arrays as tensors.

    Args:
        tree: any output.
        around: identities of the objects that hold it: one that holds itself is not taken apart again.
    """
    if isinstance(tree, _WHOLE):
        return tree
    if id(tree) in around:
        return None
    if type(tree).__module__ == "numpy" and getattr(tree, "dtype", None) is not None and tree.dtype.kind in "biufc":
        return torch.as_tensor(tree)
    around |= {id(tree)}
    if isinstance(tree, dict):
        return {str(k): plain(v, around) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(v, around) for v in tree]
    if dataclasses.is_dataclass(tree):
        return {f.name: plain(getattr(tree, f.name, None), around) for f in dataclasses.fields(tree)}
    if hasattr(tree, "__dict__") and not callable(tree) and not _compares(type(tree)):
        return {type(tree).__qualname__: plain(vars(tree), around)}
    return tree


def _compares(kind: type) -> bool:
    return any("__eq__" in vars(base) for base in kind.__mro__[:-1])
