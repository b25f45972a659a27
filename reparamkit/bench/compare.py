"""Everything that deployment cares about, before and after."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from reparamkit.arguments import arguments
from reparamkit.bench.engines import checked_engines, running
from reparamkit.bench.latency import ROUND_SECONDS, Latency, latency
from reparamkit.bench.memory import peak_activations
from reparamkit.errors import ModelError
from reparamkit.version import __version__


@dataclass(frozen=True)
class Size:
    """What one model is, whoever runs it.

    Attributes:
        macs: multiply-accumulates of one run (half of what `FlopCounterMode` counts).
        parameters: numbers in its parameters.
        activations: peak bytes of layer outputs that live at the same time.
        layers: modules without children that hold parameters.
    """

    macs: int
    parameters: int
    activations: int
    layers: int


@dataclass(frozen=True)
class Bench:
    """Two models side by side.

    Attributes:
        before: the first model.
        after: the second.
        latency: of both, by engine.
        shapes: of the inputs.
        environment: versions and machine.
    """

    before: Size
    after: Size
    latency: tuple[Latency, ...]
    shapes: tuple[tuple[int, ...], ...]
    environment: dict[str, str]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, before, after, change: for tables."""
        made = [
            _row("multiply-accumulates", self.before.macs, self.after.macs, "M", 1e6),
            _row("parameters", self.before.parameters, self.after.parameters, "M", 1e6),
            _row("peak activations", self.before.activations, self.after.activations, "MB", 1e6),
            _row("layers", self.before.layers, self.after.layers, "", 1),
        ]
        for one in self.latency:
            change = f"x {one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]" if one.differs else "no difference"
            made.append((f"latency, {one.engine}", f"{one.before * 1e3:.2f} ms", f"{one.after * 1e3:.2f} ms", change))
        return made

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        latency = [{**asdict(one), "differs": one.differs} for one in self.latency]
        return {**asdict(self), "latency": latency}

    def to_json(self) -> str:
        """JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_svg(self) -> str:
        """Bars, before and after, as an SVG that needs nothing else."""
        from reparamkit.bench.plot import Bar, bars

        sizes = [
            Bar("MACs", _share(self.before.macs, self.after.macs)),
            Bar("parameters", _share(self.before.parameters, self.after.parameters)),
            Bar("peak activations", _share(self.before.activations, self.after.activations)),
            Bar("layers", _share(self.before.layers, self.after.layers)),
        ]
        times = [Bar(f"time, {t.engine}", 1 / t.ratio, (1 / t.high, 1 / t.low)) for t in self.latency]
        return bars([*sizes, *times])

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        lines = [f"input {shapes}; {', '.join(f'{k} {v}' for k, v in self.environment.items())}"]
        lines += [f"  {name}: {before} -> {after} ({change})" for name, before, after, change in self.rows()[:4]]
        return "\n".join([*lines, *(f"  latency, {one.engine}: {one}" for one in self.latency)])


def _share(before: int, after: int) -> float:
    return after / before if before else 1.0


def _row(name: str, before: int, after: int, unit: str, scale: float) -> tuple[str, str, str, str]:
    def text(value: int) -> str:
        return f"{value:,d}" if scale == 1 else f"{value / scale:,.2f} {unit}"

    change = f"{(after - before) / before:+.1%}" if before else "-"
    return name, text(before), text(after), change


def bench(
    model: nn.Module,
    converted: nn.Module,
    example_inputs: Any,
    *,
    engines: Sequence[str] = ("eager",),
    rounds: int = 15,
    threads: int = 1,
    seconds: float = ROUND_SECONDS,
) -> Bench:
    """Measure a model and its converted form side by side.

    Args:
        model: the original, in eval mode.
        converted: the converted one.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        engines: some of "eager", "compile", "onnxruntime", "openvino".
        rounds: of timing; both are timed in each.
        threads: compute threads.
        seconds: how long one of them is timed in a round, at least.

    Raises:
        ModelError: RK101 when one is in training mode, RK104 for an engine that is not known.
        MissingExtraError, ExportError: an engine is not installed, or cannot run the model.
    """
    checked_engines(tuple(engines))
    if model.training or converted.training:
        raise ModelError("RK101", "bench measures models in eval mode; call .eval() first")
    args, kwargs = arguments(example_inputs)
    times = []
    for engine in engines:
        first, second = (running(one, engine, example_inputs) for one in (model, converted))
        options = {"rounds": rounds, "threads": threads}
        times.append(latency(first, second, args, kwargs, engine=engine, seconds=seconds, **options))
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    return Bench(
        size(model, example_inputs),
        size(converted, example_inputs),
        tuple(times),
        tuple(tuple(x.shape) for x in tensors),
        _environment(tensors),
    )


def size(model: nn.Module, example_inputs: Any) -> Size:
    """What a model is; run twice on the input."""
    args, kwargs = arguments(example_inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return Size(
        macs=counter.get_total_flops() // 2,
        parameters=sum(p.numel() for p in model.parameters()),
        activations=peak_activations(model, args, kwargs),
        layers=sum(1 for m in model.modules() if not list(m.children()) and list(m.parameters())),
    )


def _environment(tensors: Sequence[Tensor]) -> dict[str, str]:
    device = tensors[0].device if tensors else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"reparamkit": __version__, "torch": torch.__version__, device.type: name}
