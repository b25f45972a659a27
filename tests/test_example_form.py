"""The form of example inputs goes into JSON and comes back as inputs that are built alike."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.example_form import form_of, inputs_of

MODEL = nn.Conv2d(1, 1, 1).half()


def described(x: Any) -> Any:
    """Shapes, dtypes (floating ones alike) and values, built as `x` is."""
    return pytree.tree_map(lambda t: (t.shape, _kind(t)) if isinstance(t, Tensor) else (type(t), t), x)


def _kind(tensor: Tensor) -> object:
    return "floating" if tensor.is_floating_point() else tensor.dtype


@pytest.mark.parametrize(
    "example",
    [
        torch.zeros(2, 3, 5, 7),
        (torch.zeros(1, 3), None, [torch.zeros(2, dtype=torch.int64), 3], "text"),
        {"pixel_values": torch.zeros(1, 3, 8, 8), "mask": torch.ones(1, 8, dtype=torch.bool), "scale": 0.5, "on": True},
        (),
        torch.zeros(0, 3),
    ],
)
def test_there_and_back(example: Any) -> None:
    form = json.loads(json.dumps(form_of(example)))
    again = inputs_of(form, MODEL)
    assert described(again) == described(example)
    floating = [t for t in pytree.tree_leaves(again) if isinstance(t, Tensor) and t.is_floating_point()]
    assert all(t.dtype == torch.float16 for t in floating)
    assert form_of(inputs_of(form, nn.Conv2d(1, 1, 1).float())) == form


@pytest.mark.parametrize("example", [None, SimpleNamespace(a=1), (object(),), {1: torch.zeros(1)}, {"a": {2}}])
def test_what_has_no_form(example: Any) -> None:
    assert form_of(example) is None


@pytest.mark.parametrize(
    "form",
    [
        None,
        [],
        {},
        {"shape": [2], "dtype": "load"},
        {"shape": [-1], "dtype": "float32"},
        {"shape": [True], "dtype": "float32"},
        {"shape": [2], "dtype": "float32", "device": "cuda"},
        {"list": [{"shape": [2**26], "dtype": "bool"}] * 3},
        {"value": [1]},
        {"dict": [1]},
    ],
)
def test_what_is_no_form(form: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|more than"):
        inputs_of(form, MODEL)
