"""An ONNX file as a module: run by ONNX Runtime or OpenVINO, called like the model it was exported from."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.arguments import arguments
from reparamkit.errors import ExportError, MissingExtraError, ModelError
from reparamkit.export.program import first_line

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


class RuntimeModule(nn.Module):
    """Runs an ONNX file.

    Its outputs are put together as the original's, so `reparamkit.verify(original, module, inputs)` compares them.

    Args:
        file: the ONNX file.
        original: what it was exported from; run once, to see how its outputs are built.
        example_inputs: an input for it.
        engine: "onnxruntime" or "openvino".

    Raises:
        MissingExtraError: RK921 when the engine is not installed.
        ModelError: RK104 for an engine that nobody knows.
    """

    def __init__(
        self, file: str | os.PathLike[str], original: nn.Module, example_inputs: Any, engine: str = "onnxruntime"
    ) -> None:
        super().__init__()
        if engine not in _EXTRAS:
            raise ModelError("RK104", f"engine {engine!r}: expected one of {', '.join(_EXTRAS)}")
        self._run = (_onnxruntime if engine == "onnxruntime" else _openvino)(Path(file))
        args, kwargs = arguments(example_inputs)
        with torch.no_grad():
            leaves, self._spec = pytree.tree_flatten(original(*args, **kwargs))
        self._tensors = [isinstance(leaf, Tensor) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the file computes, as tensors, built like the original's output."""
        inputs = [x.detach().cpu().numpy() for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        try:
            results = self._run(inputs)
        except Exception as error:  # each runtime has exceptions of its own
            raise ExportError("RK922", f"the runtime: {first_line(error)}") from error
        made = iter([torch.from_numpy(np.array(y)) for y in results])
        others = iter(self._others)
        leaves = [next(made) if is_tensor else next(others) for is_tensor in self._tensors]
        return pytree.tree_unflatten(leaves, self._spec)


def engine_module(name: str) -> Any:
    """The package of an engine.

    Raises:
        MissingExtraError: RK921 when it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(name, "onnx")
        raise MissingExtraError("RK921", f"{error.name}: pip install 'reparamkit[{extra}]'") from error


def _onnxruntime(file: Path) -> Any:
    runtime = engine_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _openvino(file: Path) -> Any:
    core = engine_module("openvino").Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(str(file)), "CPU")
    return lambda inputs: list(compiled(list(inputs)).values())
