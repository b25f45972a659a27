"""How the program of a seed is converted: options, dtype, example inputs; drawn apart from the program's own text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_EVERYWHERE = {"match": {"structure": "any"}, "rules": ["core/*", "unshare"], "optional": True}
EVERY_RULE = {"version": 1, "name": "every_rule", "blocks": [_EVERYWHERE]}
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"policy": "always"},
    {"inplace": True},
    {"policy": "always", "inplace": True},
    {"policy": "always", "recipe": EVERY_RULE},
    {"recipe": "fold_bn"},
)
_DTYPES = {torch.float64: 5, torch.float32: 3, torch.bfloat16: 2}
_EXAMPLES = {"none": 6, "tensor": 2, "tuple": 1, "dict": 1}


@dataclass(frozen=True)
class Setting:
    """How one program is looked at.

    Attributes:
        options: of `reparamkit.apply`, without `example_inputs`.
        dtype: of the model and its inputs.
        example: the form in which example inputs are given, or "none".
    """

    options: dict[str, Any]
    dtype: torch.dtype
    example: str

    def all_options(self, x: Tensor) -> dict[str, Any]:
        """Those of `reparamkit.apply`, with `x` as the example."""
        forms: dict[str, Any] = {"tensor": x, "tuple": (x,), "dict": {"v0": x}}
        return self.options if self.example == "none" else {**self.options, "example_inputs": forms[self.example]}


def setting_of(seed: int) -> Setting:
    """The setting of a seed."""
    draw = random.Random(f"setting {seed}")
    dtype = draw.choices(list(_DTYPES), list(_DTYPES.values()))[0]
    example = draw.choices(list(_EXAMPLES), list(_EXAMPLES.values()))[0]
    return Setting(OPTIONS[seed % len(OPTIONS)], dtype, example)
