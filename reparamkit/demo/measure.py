"""What deployment cares about: accuracy, size, memory, time."""

from __future__ import annotations

import statistics
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer

from reparamkit.demo.training import Digits

ROUNDS = 15
ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """One network.

    Attributes:
        accuracy: on the test images.
        convs: convolutions.
        norms: batch norms.
        parameters: numbers that training learned or that come from them.
        activations: peak of the layer outputs that live at the same time, in bytes, for all test images at once.
            What a kernel needs beside its result is not in it.
    """

    accuracy: float
    convs: int
    norms: int
    parameters: int
    activations: int


def measured(model: nn.Module, data: Digits) -> Measured:
    """Measure a network in eval mode."""
    with torch.no_grad(), _Activations(model, data.test_x) as activations:
        logits = model(data.test_x)
    return Measured(
        accuracy=(logits.argmax(1) == data.test_y).double().mean().item(),
        convs=sum(isinstance(m, nn.Conv2d) for m in model.modules()),
        norms=sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()),
        parameters=sum(p.numel() for p in model.parameters()),
        activations=activations.peak,
    )


class _Activations(TorchDispatchMode):
    """Adds up the memory that results occupy, as long as somebody holds them."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        # Storages are known by the identity of their C++ side: the Python side comes and goes.
        self._known = {t.untyped_storage()._cdata for t in (x, *model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Latency:
    """Time of the first network divided by that of the second, round by round.

    Attributes:
        ratio: the median.
        low: first quartile.
        high: third quartile.
        before: median seconds of the first network.
        after: likewise of the second.
    """

    ratio: float
    low: float
    high: float
    before: float
    after: float

    def __str__(self) -> str:
        spread = f"interquartile range {self.low:.2f} .. {self.high:.2f}, {ROUNDS} rounds, one thread"
        times = f"{self.before * 1e3:.2f} ms -> {self.after * 1e3:.2f} ms"
        if self.low <= 1 <= self.high:
            return f"no difference within the spread ({times}; ratio {self.ratio:.2f}, {spread})"
        word = "shorter" if self.ratio > 1 else "LONGER"
        return f"{max(self.ratio, 1 / self.ratio):.2f} times {word} ({times}; {spread})"


def latency(before: nn.Module, after: nn.Module, x: Tensor) -> Latency:
    """Time both networks in turn, so that whatever else the machine does hits both."""
    timers = [Timer("model(x)", globals={"model": model, "x": x}) for model in (before, after)]
    with torch.inference_mode():
        counts = [max(1, round(ROUND_SECONDS / timer.timeit(3).median)) for timer in timers]
        rounds = [[t.timeit(n).median for t, n in zip(timers, counts, strict=True)] for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles([first / second for first, second in rounds], n=4)
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return Latency(middle, low, high, *medians)
