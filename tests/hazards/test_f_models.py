"""Hazards of kinds of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import reparamkit
from reparamkit import apply  # not watched: the warning names the caller
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import CALL, raises, warns
from tests.helpers import (
    IMAGES,
    Fn,
    convert,
    convert_as_is,
    counts,
    gap,
    inputs,
    places,
    randomize,
    unchanged,
)


class ControlFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.tail = Block(), seq(same(), bn())

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        for _ in range(x.shape[0]):
            y = y + 1
        return self.tail(y) * x.shape[0]


@hazard("F1", "control flow that depends on data", "the forward is left, what is inside is converted", "RK604")
def test_f01_children_of_a_forward_that_cannot_be_traced() -> None:
    converted, report = convert(ControlFlow())
    assert counts(converted) == (2, 0)
    assert places(report, "RK604") == ["(root)"]
    assert any("range(x.shape[0])" in r.reason for r in report.untraceable)


@hazard("F2", "is_scripting, is_tracing, is_compiling", "the Python branch is taken")
def test_f02_questions_about_scripting_and_tracing() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return x
        return m.a(x) + m.b(x)

    assert counts(convert(Fn(run, a=same(), b=same(1)))[0]) == (1, 0)


@hazard(
    "F3",
    "DataParallel, DistributedDataParallel",
    "converted inside; of the latter what is in it, with a warning, and an error where it is a part of the model",
    "RK605",
)
def test_f03_data_parallel() -> None:
    converted, _ = convert(nn.DataParallel(seq(Block(), same())))
    assert isinstance(converted, nn.DataParallel)
    assert counts(converted) == (2, 0)


def test_f03_distributed_data_parallel_is_an_error() -> None:
    model = type("DistributedDataParallel", (nn.Sequential,), {})(Block()).eval()
    with unchanged(model), raises("RK605", "(root)", "model.module"):
        reparamkit.apply(model)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_f03_a_model_that_torch_itself_wrapped(tmp_path: Path) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(randomize(Block())).eval()
        with unchanged(model), warns("RK605", __file__, "model.module"):
            converted = apply(model)
        assert isinstance(converted, Block)
        assert counts(converted) == (1, 0)
        x = inputs(IMAGES[0], dtype=torch.float32)
        with torch.no_grad():
            assert gap(model(x), converted(x)) < 1e-5
        with unchanged(model), raises("RK605", "0"):
            reparamkit.apply(nn.Sequential(model).eval())
        with warns("RK605", __file__, "model.module"):
            assert apply(model, inplace=True) is model.module
        with torch.no_grad():
            assert gap(model(x), converted(x)) == 0
    finally:
        dist.destroy_process_group()


@hazard("F4", "compiled models", "converted")
def test_f04_compiled_models() -> None:
    model = torch.compile(randomize(seq(Block(), same())).double(), backend="eager")
    converted = reparamkit.apply(model)  # type: ignore[call-overload]
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert gap(model(x), converted(x)) < 1e-9
    assert counts(converted) == (2, 0)


@hazard("F5", "TorchScript", "error", "RK601")
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_f05_torchscript() -> None:
    for scripted in (
        torch.jit.script(same().eval()),
        torch.jit.trace(Block().eval(), inputs(IMAGES[0], dtype=torch.float32)),
    ):
        with raises("RK601", CALL):
            reparamkit.apply(scripted)


@hazard("F6", "exported programs, things that are no modules", "error", "RK602", "RK603")
def test_f06_exported_programs() -> None:
    program = torch.export.export(Block().eval(), (inputs(IMAGES[1], dtype=torch.float32),))
    with raises("RK602", CALL):
        reparamkit.apply(program)  # type: ignore[call-overload]


@pytest.mark.parametrize("what", [None, 3, "model.pt", torch.ones(3), dict, nn.Module])
def test_f06_things_that_are_no_modules(what: Any) -> None:
    with raises("RK603", CALL):
        reparamkit.apply(what)


@hazard("F7", "a GraphModule", "converted, and still one")
def test_f07_graph_modules() -> None:
    from torch import fx

    graph_module = fx.symbolic_trace(randomize(Fn(lambda m, x: m.bn(m.conv(x)) + x, conv=same(), bn=bn())).double())
    converted, _ = convert_as_is(graph_module)
    assert isinstance(converted, fx.GraphModule)
    assert counts(converted) == (1, 0)


@hazard("F8", "lazy modules", "error", "RK102")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_f08_lazy_modules() -> None:
    model = seq(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()).eval()
    with raises("RK102", "0.weight"):
        reparamkit.apply(model)


def nested(depth: int) -> nn.Module:
    model: nn.Module = seq(same(), bn())
    for _ in range(depth):
        model = seq(model)
    return model


@hazard("F9", "deep nesting", "converted; an error where torch itself cannot walk through the model", "RK606")
@pytest.mark.parametrize("depth", [30, 100])
def test_f09_deep_nesting(depth: int) -> None:
    converted, _ = convert(nested(depth))
    assert counts(converted) == (1, 0)


def test_f09_nesting_deeper_than_python_copies() -> None:
    model = randomize(nested(300))
    assert counts(reparamkit.apply(model)) == (1, 0)
    assert counts(model) == (1, 1)
    assert counts(reparamkit.apply(model, inplace=True)) == (1, 0)


@pytest.mark.parametrize("inplace", [False, True])
def test_f09_nesting_deeper_than_torch_walks(inplace: bool) -> None:
    model = randomize(seq(same(), bn()))
    weights = {k: t.clone() for k, t in model.state_dict().items()}
    inner = model
    for _ in range(1200):
        model = seq(model)
        model.training = False  # `eval` would call itself once a level
    with raises("RK606", CALL, "got 1201 at 0.0.0.", "sys.setrecursionlimit("):
        reparamkit.apply(model, inplace=inplace)
    assert all(torch.equal(weights[k], t) for k, t in inner.state_dict().items())
    assert counts(reparamkit.apply(inner)) == (1, 0)


@hazard("F10", "very long models", "converted")
def test_f10_long_models() -> None:
    model = randomize(seq(*[layer for _ in range(1000) for layer in (nn.Conv2d(2, 2, 1), nn.ReLU())]))
    converted, report = reparamkit.apply(model, return_report=True)
    assert not report.merged
    assert len(converted) == 2000
    model = randomize(seq(*[layer for _ in range(666) for layer in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())]))
    assert counts(reparamkit.apply(model)) == (666, 0)
