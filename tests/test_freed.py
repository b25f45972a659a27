"""What a conversion replaced is freed with it: nothing is kept by values that point at each other."""

from __future__ import annotations

import gc
import linecache
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests import blocks

X = torch.randn(2, 4, 8, 8)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Several(nn.Module):
    """A branch that is chosen by the size of the input, and a list that is built while running: more than one way."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.other = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        found = [self.pair(x)]
        if x.shape[-1] > 3:
            found.append(self.other(x))
        return torch.stack(found).sum(0).relu()


def model() -> nn.Module:
    return randomize(nn.Sequential(blocks.RepVGGBlock(4, 4), Several(), blocks.RepVGGBlock(4, 4))).eval()


def kernels(net: nn.Module) -> list[weakref.ref[nn.Parameter]]:
    return [
        weakref.ref(p)
        for m in net.modules()
        if isinstance(m, nn.Conv2d)
        for p in m._parameters.values()
        if p is not None
    ]


def alive(refs: list[Any]) -> int:
    return sum(ref() is not None for ref in refs)


@pytest.mark.parametrize("options", [{}, {"example_inputs": X}, {"return_report": True}, {"policy": "always"}])
def test_replaced_kernels_are_freed(options: dict[str, Any]) -> None:
    net = model()
    before = kernels(net)
    kept = reparamkit.apply(net, inplace=True, **options)
    now = {id(p) for p in net.parameters()}
    assert alive(before) == sum(id(ref()) in now for ref in before if ref() is not None)
    assert alive(before) < len(before)
    del kept


def test_the_original_of_a_copy_is_freed() -> None:
    net = model()
    before = kernels(net)
    converted = reparamkit.apply(net)
    del net
    assert alive(before) == 0
    del converted


def test_a_plan_that_was_carried_out_on_another_model_keeps_neither() -> None:
    net, other = model(), model()
    plan = reparamkit.plan(net)
    before = kernels(other)
    converted = plan.apply_to(other)
    del other
    assert alive(before) == 0
    del converted


def test_what_undo_needs_is_kept() -> None:
    net = model()
    before = kernels(net)
    _, report = reparamkit.apply(net, inplace=True, keep_original=True, return_report=True)
    assert alive(before) == len(before)
    report.undo()
    assert {id(ref()) for ref in before} <= {id(p) for p in net.parameters()}


def test_a_conversion_imports_no_compiler() -> None:
    """It takes seconds: torch does it at the first operation under a mode, unless the mode says otherwise."""
    code = """
import sys, torch, reparamkit
from torch import nn
class Gain(nn.Module):
    def forward(self, x):
        return 2 * x
@reparamkit.lifts(Gain, "test/gain")
def gain(module, context):
    return reparamkit.Scale(torch.tensor(2.0, dtype=torch.float64))
class Plugin:
    @staticmethod
    @reparamkit.hookimpl
    def reparamkit_rules():
        return [gain]
model = nn.Sequential(nn.Conv2d(3, 4, 3), Gain(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)).eval()
reparamkit.apply(model, example_inputs=torch.randn(1, 3, 8, 8), plugins=[Plugin])
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr


_BLOCK = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.other = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 1)

    def forward(self, x, *more, scale: float = 1.0, **kwargs):
        return torch.relu(self.pair(x) + self.other(x)) * scale

    def fuse(self):
        return self.pair[1].running_mean
"""


def test_classes_and_rewritten_forwards_are_freed() -> None:
    """As of cells of a notebook that are run again and again: caches go by class, and must not keep it."""
    names = {"nn": nn, "torch": torch, "__name__": "cell"}
    linecache.cache["<cell>"] = (len(_BLOCK), None, _BLOCK.splitlines(keepends=True), "<cell>")
    exec(compile(_BLOCK, "<cell>", "exec"), names)  # noqa: S102 - as a notebook does
    made: Any = names.pop("Block")
    net = nn.Sequential(made(), made()).eval()
    converted = reparamkit.apply(net, example_inputs=X)
    rewritten = type(converted[0])  # type: ignore[index]
    assert issubclass(rewritten, made)
    assert rewritten is not made
    assert rewritten is type(converted[1])  # type: ignore[index]
    assert rewritten is type(reparamkit.apply(net)[0])  # type: ignore[index]
    place = rewritten.forward.__code__.co_filename
    assert place in linecache.cache
    ref = weakref.ref(made)
    names.clear()
    linecache.cache.pop("<cell>")
    del made, net, converted, rewritten
    gc.collect()
    gc.collect()  # what finalizers of the first pass let go of
    assert ref() is None
    assert place not in linecache.cache
