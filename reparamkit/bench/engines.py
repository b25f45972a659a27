"""Ways to run a model: eager, compiled, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reparamkit.arguments import arguments
from reparamkit.errors import ModelError

ENGINES = ("eager", "compile", "onnxruntime", "openvino")


def checked_engines(names: tuple[str, ...]) -> None:
    """Raise `ModelError` RK104 when one of them is not known."""
    for name in names:
        if name not in ENGINES:
            raise ModelError("RK104", f"engine {name!r}: expected some of {', '.join(ENGINES)}")


def running(model: nn.Module, engine: str, example_inputs: Any) -> Callable[..., Any]:
    """`model` in this engine, warm.

    Args:
        model: in eval mode; not changed.
        engine: one of `ENGINES`.
        example_inputs: what it will be called with.

    Raises:
        ModelError: RK104 for an engine that is not known.
        ExportError: RK922 when it cannot be exported.
        MissingExtraError: RK921 when the engine is not installed.
    """
    checked_engines((engine,))
    if engine == "eager":
        return model
    if engine == "compile":
        return _compiled(model, example_inputs)
    from reparamkit.export import RuntimeModule, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(model, file, example_inputs, dynamic=False)
        return RuntimeModule(file, model, example_inputs, engine)


def _compiled(model: nn.Module, example_inputs: Any) -> Callable[..., Any]:
    args, kwargs = arguments(example_inputs)
    compiled = torch.compile(model)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inductor about the machine
        compiled(*args, **kwargs)
    return compiled
