"""A model as an ONNX file."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reparamkit.errors import ExportError
from reparamkit.export.program import Dynamic, export_program, first_line, free_axes
from reparamkit.export.runtime import RuntimeModule, engine_module
from reparamkit.output import checked_target, replacing
from reparamkit.verify import Comparison, compare


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        file: the ONNX file.
        counts: nodes by operator.
        free: axes of each input that are free, by its name.
        comparison: of what ONNX Runtime computes with the original, when one was given.
    """

    file: Path
    counts: Mapping[str, int]
    free: Mapping[str, tuple[int, ...]]
    comparison: Comparison | None = None

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts.get(kind, 0)} {kind}" for kind in ("Conv", "Add", "BatchNormalization"))
        free = "; ".join(f"{name}: axes {', '.join(map(str, axes))}" for name, axes in self.free.items() if axes)
        lines = [f"{self.file}: {counts}, {sum(self.counts.values())} nodes", f"free: {free or 'nothing'}"]
        if self.comparison is not None:
            lines.append(f"ONNX Runtime against the original: {self.comparison}")
        return "\n".join(lines)


def export_onnx(
    model: nn.Module,
    file: str | os.PathLike[str],
    example_inputs: Any,
    *,
    original: nn.Module | None = None,
    dynamic: bool = True,
    force: bool = False,
) -> Exported:
    """Write `model` as an ONNX file, with ``torch.onnx.export(dynamo=True)``.

    Args:
        model: the deploy model, in eval mode.
        file: its name ends in .onnx. It is complete or as it was.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        original: the model before its conversion; ONNX Runtime then runs the file on `example_inputs`, and must
            compute what the original does, before the file gets its name.
        dynamic: leave batch and positions free, see `export_program`; only the batch, or nothing, where the model
            or the runtime does not allow it. `Exported.free` says what came of it.
        force: replace an existing file.

    Returns:
        Where it is and what is in it.

    Raises:
        ExportError: RK922 when the exporter fails.
        VerificationError: RK901 when ONNX Runtime computes something else than the original.
        MissingExtraError: RK921 when onnx, onnxscript or onnxruntime is not installed.
        OutputError: RK912 when the file cannot be written.
    """
    path = Path(file)
    checked_target(path, force=force, suffix=".onnx")
    for package in ("onnx", "onnxscript", *(("onnxruntime",) if original is not None else ())):
        engine_module(package)
    levels: tuple[Dynamic, ...] = (True, "batch", False) if dynamic else (False,)
    with replacing(path) as temporary:
        program, comparison = _first_that_runs(model, temporary, example_inputs, original, levels)
        counts = node_counts(temporary)
    return Exported(path, counts, free_axes(program), comparison)


def _first_that_runs(
    model: nn.Module, file: Path, example_inputs: Any, original: nn.Module | None, levels: tuple[Dynamic, ...]
) -> tuple[torch.export.ExportedProgram, Comparison | None]:
    """A model may write down its example's size somewhere: then less is left free."""
    for level in levels:
        try:
            program = export_program(model, example_inputs, dynamic=level)
            _write(program, file)
            if original is None:
                return program, None
            return program, compare(original, RuntimeModule(file, original, example_inputs), example_inputs)
        except ExportError:
            if level is levels[-1]:
                raise
    raise AssertionError("there is always a level")


def _write(program: torch.export.ExportedProgram, file: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and onnxscript to their own developers
            made = torch.onnx.export(program, dynamo=True, verbose=False, external_data=False)
            assert made is not None
            made.save(str(file))
    except Exception as error:  # the exporter has its own exceptions, and passes on those of others
        raise ExportError("RK922", f"torch.onnx: {first_line(error)}") from error


def node_counts(file: str | os.PathLike[str]) -> Mapping[str, int]:
    """How many nodes of each operator are in an ONNX file, those of its functions included.

    Raises:
        MissingExtraError: RK921 when onnx is not installed.
    """
    loaded = engine_module("onnx").load(str(file), load_external_data=False)
    counts = Counter(node.op_type for node in loaded.graph.node)
    for function in loaded.functions:
        calls = counts.pop(function.name, 0)
        for node in function.node:
            counts[node.op_type] += calls
    return dict(counts)
