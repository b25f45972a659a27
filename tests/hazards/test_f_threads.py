"""Hazards of threads, arguments and functions that are not known."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    IMAGES,
    Fn,
    assert_same,
    convert,
    counts,
    gap,
    inputs,
    randomize,
)


@hazard("F11", "other threads use models meanwhile", "nothing is patched; they go on undisturbed")
def test_f11_another_thread_goes_on_undisturbed() -> None:
    served, model = randomize(seq(Block(), Block())), randomize(seq(*[Block() for _ in range(8)]))
    x = inputs(IMAGES[0], dtype=torch.float32)
    wanted = served(x)
    stop, errors, calls = threading.Event(), [], [0]

    def serve() -> None:
        while not stop.is_set():
            try:
                assert torch.equal(served(x), wanted)
                calls[0] += 1
            except BaseException as error:
                errors.append(error)
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(5):
            assert counts(reparamkit.apply(model)) == (8, 0)
            assert counts(reparamkit.apply(served)) == (2, 0)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert calls[0] > 0


def test_f11_two_threads_convert_at_once() -> None:
    models = [randomize(seq(Block(), same(), bn()), seed).double() for seed in range(4)]
    results: dict[int, nn.Module] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, reparamkit.apply(models[i]))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, model in enumerate(models):
        assert_same(model, results[index])
        assert counts(results[index]) == (2, 0)


@hazard("F12", "other kinds of arguments and results", "passed on; compared leaf by leaf")
def test_f12_other_kinds_of_inputs_and_outputs() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor, *rest: Any, scale: float = 1.0, **options: Any) -> dict[str, Any]:
            return {"out": self.block(x) * scale, "rest": len(rest), "options": sorted(options)}

    model = randomize(Outer()).double()
    converted = reparamkit.apply(model)
    assert counts(converted) == (1, 0)
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert gap(model(x, 1, 2, scale=2.0, a=1), converted(x, 1, 2, scale=2.0, a=1)) < 1e-9


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 3


@hazard("F18", "custom functions, vmap", "opaque")
def test_f18_functions_that_are_not_known() -> None:
    convert(Fn(lambda m, x: m.bn(Twice.apply(m.conv(x))), conv=same(), bn=bn()))
    _, report = convert(Fn(lambda m, x: m.bn(torch.vmap(lambda y: y * 2)(m.conv(x))), conv=same(), bn=bn()))
    assert not report.merged
