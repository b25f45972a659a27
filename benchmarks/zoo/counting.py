"""How many convolution, linear and batch norm kernels a model executes, however it calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_KINDS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv"),
    "linear": "linear",
    "batch_norm": "norm",
}


class Executed(TorchFunctionMode):
    """Counts by kind; what a counted function calls in turn is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter(conv=0, linear=0, norm=0)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _KINDS.get(getattr(func, "__name__", ""))
        if kind is not None:
            self.counts[kind] += 1
        return func(*args, **(kwargs or {}))


def run(model: torch.nn.Module, inputs: Any) -> tuple[Any, dict[str, int]]:
    """What `model` returns for `inputs` (positional or keyword arguments), and the kernels it took."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    torch.manual_seed(0)  # a model that draws random numbers in eval mode draws the same ones
    with torch.no_grad(), Executed() as executed:
        out = model(*args, **kwargs)
    return out, dict(executed.counts)
