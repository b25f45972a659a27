"""A model in each engine, on one thread, ready to be called with the input."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.bench.engines import running

Run = Callable[[], Any]
ENGINES = ("eager", "channels_last", "bf16", "jit", "compile", "onnxruntime", "openvino")


def prepared(model: nn.Module, engine: str, x: Tensor) -> Run:
    """A call of `model` on `x` in this engine, compiled and warm. What an engine cannot run raises."""
    make = _MAKERS.get(engine)
    call = running(model, engine, x) if make is None else None
    run = make(copy.deepcopy(model), x) if make is not None else lambda: call(x)
    with torch.inference_mode():
        for _ in range(2):
            run()
    return run


def _eager(model: nn.Module, x: Tensor) -> Run:
    return lambda: model(x)


def _channels_last(model: nn.Module, x: Tensor) -> Run:
    model.to(memory_format=torch.channels_last)
    return _eager(model, x.contiguous(memory_format=torch.channels_last))


def _bf16(model: nn.Module, x: Tensor) -> Run:
    return _channels_last(model.bfloat16(), x.bfloat16())


def _jit(model: nn.Module, x: Tensor) -> Run:
    """`torch.jit.trace`, `freeze` and `optimize_for_inference`."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))
    return lambda: frozen(x)


def _compile(model: nn.Module, x: Tensor) -> Run:
    """`torch.compile` with inductor's freezing."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    with inductor.patch(freezing=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model)
        compiled(x)

    def run() -> Any:
        with torch.no_grad():
            return compiled(x)

    return run


_MAKERS: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "eager": _eager,
    "channels_last": _channels_last,
    "bf16": _bf16,
    "jit": _jit,
    "compile": _compile,
}
