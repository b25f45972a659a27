"""Forwards that cast: what is merged behind a cast would be given another dtype than its weights have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from reparamkit.decide import Candidate
    from reparamkit.flow import Value

_METHODS = {"double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
_ANY = frozenset({"to", "type", "type_as"})  # without a dtype: to that of something else


def cast_elsewhere(candidate: Candidate) -> Refusal | None:
    """A refusal when the input of a region was cast to another dtype than that of its weights."""
    if any(value.module is not None and candidate.source in value.inputs for value in candidate.values):
        return None  # what a layer of the same dtype was given already
    given, like = _written(candidate.source), candidate.term.like
    if given is None or like is None or given == like.dtype:
        return None
    return Refusal("RK503", f"its input was cast to {given}, its weights are {like.dtype}", candidate.target.where)


def _written(value: Value) -> torch.dtype | None:
    """The dtype that a forward names last on the way to a value, modules aside: those have one of their own."""
    while value.module is None and value.node.op in ("call_function", "call_method"):
        node = value.node
        if node.op == "call_method" and node.target in _METHODS:
            return _METHODS[str(node.target)]
        named = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, torch.dtype)]
        if named or not value.inputs or node.target in _ANY:
            return named[0] if named else None
        value = value.inputs[0]
    return None
