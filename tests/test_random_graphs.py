"""Random forwards against eager mode: whatever they do, the conversion is exact or leaves them alone."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import RTOL, assert_untouched, gap, inputs, randomize, snapshot

Step = tuple[str, tuple[int, ...], Any]
SIZES = ((7, 8, 9), (9, 10, 7))
C = 4


class Program(nn.Module):
    """Runs a fixed list of steps on a growing list of values; a step is (what, which values, option)."""

    def __init__(self, steps: list[Step], layers: list[nn.Module], returned: tuple[int, ...]) -> None:
        super().__init__()
        self.steps, self.layers, self.returned = steps, nn.ModuleList(layers), returned

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for what, which, option in self.steps:
            values.append(self.step(what, [values[i] for i in which], option))
        results = tuple(values[i] for i in self.returned)
        return results if len(results) > 1 else results[0]

    def extra_repr(self) -> str:
        return f"steps={self.steps}, returned={self.returned}"

    def step(self, what: str, v: list[Tensor], option: Any) -> Tensor:
        if what == "layer":
            return self.layers[option](v[0])
        return STEPS[what](*v, option)


def _iadd(a: Tensor, b: Tensor, option: Any) -> Tensor:
    a += b
    return a


def _imul(a: Tensor, option: float) -> Tensor:
    a *= option
    return a


def _crop(a: Tensor, option: int) -> Tensor:
    return a[(slice(None), slice(None), *[slice(option, -option)] * (a.ndim - 2))]


def _isum(a: Tensor, b: Tensor, option: Any) -> Tensor:
    return sum([a, b])  # type: ignore[return-value]


STEPS: dict[str, Any] = {
    "add": lambda a, b, option: a + b,
    "add alpha": lambda a, b, option: torch.add(a, b, alpha=option),
    "sub": lambda a, b, option: a - b,
    "sum": _isum,
    "stack": lambda a, b, option: torch.stack([a, b]).sum(0),
    "iadd": _iadd,
    "mul": lambda a, option: a * option,
    "imul": _imul,
    "shift": lambda a, option: option - a,
    "dropout": lambda a, option: F.dropout(a, 0.5, False),
    "clone": lambda a, option: a.clone(),
    "relu": lambda a, option: F.relu(a),
    "relu_": lambda a, option: F.relu_(a),
    "cat": lambda a, b, option: torch.cat([a, b], 1),
    "product": lambda a, b, option: a * b,
}


@dataclass
class Writer:
    """Draws a program and keeps the books: channels and border lost of each value."""

    draw: Any
    nd: int
    depth: int
    steps: list[Step] = field(default_factory=list)
    layers: list[nn.Module] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=lambda: [(C, 0)])
    made: list[tuple[int, int, int]] = field(default_factory=list)  # index of a layer, channels in, channels out

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def value(self) -> int:
        """A value, the latest most often."""
        last = len(self.shapes) - 1
        return self.pick(last, last, *range(last + 1))

    def put(self, what: str, which: tuple[int, ...], option: Any, shape: tuple[int, int]) -> None:
        self.steps.append((what, which, option))
        self.shapes.append(shape)

    def layer(self, module: nn.Module, at: int, shape: tuple[int, int], again: bool = True) -> None:
        if again:
            self.made.append((len(self.layers), self.shapes[at][0], shape[0]))
        self.layers.append(module)
        self.put("layer", (at,), len(self.layers) - 1, shape)

    def write(self, length: int) -> None:
        kinds = (
            "conv conv conv bn bn scale block again two two two one one identity pool pad crop hook sequence".split()
        )
        for _ in range(length):
            getattr(self, f"_{self.pick(*kinds)}")(self.value())

    def _conv(self, at: int) -> None:
        channels, lost = self.shapes[at]
        out = self.pick(channels, channels, C)
        kernel, groups = self.pick(1, 3, 3), self.pick(1, 1, 2, channels if out == channels else 1)
        kind: Any = getattr(nn, f"Conv{self.nd}d")
        pad = self.pick(kernel // 2, kernel // 2, 0) if lost < 2 else kernel // 2
        mode = self.pick("zeros", "zeros", "reflect", "circular") if pad else "zeros"
        made = kind(channels, out, kernel, padding=pad, groups=groups, bias=self.pick(True, False), padding_mode=mode)
        self.layer(made, at, (out, lost + kernel // 2 - pad))

    def _bn(self, at: int) -> None:
        kind: Any = getattr(nn, f"BatchNorm{self.nd}d")
        self.layer(kind(self.shapes[at][0]), at, self.shapes[at])

    def _scale(self, at: int) -> None:
        self.layer(Scaled(self.shapes[at][0], self.nd), at, self.shapes[at])

    def _block(self, at: int) -> None:
        channels, lost = self.shapes[at]
        if self.depth == 0 or channels != C or lost:
            return
        self.layer(self.draw(programs(self.nd, self.depth - 1)), at, (C, 0))

    def _sequence(self, at: int) -> None:
        """A layer and what follows it as one `nn.Sequential`."""
        channels, lost = self.shapes[at]
        conv: Any = getattr(nn, f"Conv{self.nd}d")(channels, channels, self.pick(1, 3), padding="same")
        norm: Any = getattr(nn, f"BatchNorm{self.nd}d")(channels)
        tail = self.pick([], [nn.ReLU()], [nn.ReLU(inplace=True)], [nn.Dropout()])
        self.layer(nn.Sequential(*self.pick([conv, norm], [norm, conv]), *tail), at, (channels, lost))

    def _again(self, at: int) -> None:
        fitting = [m for m in self.made if m[1] == self.shapes[at][0] and not self._shrinks(m[0])]
        if fitting:
            index, _, out = self.pick(*fitting)
            self.put("layer", (at,), index, (out, self.shapes[at][1]))

    def _shrinks(self, index: int) -> bool:
        module: Any = self.layers[index]
        kernel, pad = getattr(module, "kernel_size", (1,)), getattr(module, "padding", (0,))
        return isinstance(module, Program) or (pad != "same" and kernel[0] // 2 != pad[0])

    def _two(self, at: int) -> None:
        channels, lost = self.shapes[at]
        what = self.pick("add", "add", "add", "sub", "sum", "stack", "iadd", "add alpha", "product", "cat")
        others = [i for i, (c, o) in enumerate(self.shapes) if o == lost and (c == channels or what == "cat")]
        other = self.pick(*others)
        if what == "cat":
            if channels + self.shapes[other][0] <= 2 * C:
                self.put(what, (at, other), None, (channels + self.shapes[other][0], lost))
            return
        self.put(what, (at, other), self.pick(0.5, -2.0), (channels, lost))

    def _one(self, at: int) -> None:
        what = self.pick("mul", "mul", "imul", "shift", "dropout", "clone", "relu", "relu_")
        self.put(what, (at,), self.pick(0.5, -1.5), self.shapes[at])

    def _identity(self, at: int) -> None:
        self.layer(self.pick(nn.Identity(), nn.Dropout(), nn.ReLU(), nn.ReLU(inplace=True)), at, self.shapes[at])

    def _pool(self, at: int) -> None:
        kind: Any = getattr(nn, f"AvgPool{self.nd}d")
        options = {"count_include_pad": self.pick(True, True, False)}
        self.layer(kind(3, 1, 1, **options), at, self.shapes[at], again=False)

    def _pad(self, at: int) -> None:
        channels, lost = self.shapes[at]
        kind: Any = getattr(nn, f"{self.pick('Zero', 'Zero', 'Reflection', 'Replication')}Pad{self.nd}d")
        if lost > -1:
            self.layer(kind(1), at, (channels, lost - 1), again=False)

    def _crop(self, at: int) -> None:
        channels, lost = self.shapes[at]
        if lost < 2:
            self.layer(Cropped(), at, (channels, lost + 1), again=False)

    def _hook(self, at: int) -> None:
        if self.layers and self.pick(True, False, False):
            module = self.layers[self.pick(*range(len(self.layers)))]
            module.register_forward_hook(self.pick(observe, double))


def observe(module: nn.Module, args: Any, output: Any) -> None:
    """A hook that changes nothing."""


def double(module: nn.Module, args: Any, output: Any) -> Any:
    """A hook that does."""
    return output * 2


class Scaled(nn.Module):
    def __init__(self, channels: int, nd: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * nd))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Cropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _crop(x, 1)


@st.composite
def programs(draw: Any, nd: int, depth: int) -> Program:
    """A random forward that keeps 4 channels and the size when it is a block inside another."""
    writer = Writer(draw, nd, depth)
    writer.write(draw(st.integers(2, 7 if depth else 4)))
    fitting = [i for i, shape in enumerate(writer.shapes) if shape == (C, 0)]
    returned: tuple[int, ...] = (fitting[-1],)
    return Program(writer.steps, writer.layers, returned)


@st.composite
def models(draw: Any) -> nn.Module:
    """A program, sometimes with two results."""
    nd = draw(st.sampled_from((1, 2, 2, 2, 3)))
    writer = Writer(draw, nd, 2)
    writer.write(draw(st.integers(1, 9)))
    last = len(writer.shapes) - 1
    returned = (last, draw(st.integers(0, last))) if draw(st.integers(0, 4)) == 0 else (last,)
    program = Program(writer.steps, writer.layers, returned)
    program.nd = nd
    return program


def check(model: nn.Module, policy: str, seen: Counter[str]) -> None:
    nd = int(model.nd)  # type: ignore[arg-type]
    randomize(model).double()
    before = snapshot(model)
    converted, report = reparamkit.apply(model, policy=policy, return_report=True)
    assert_untouched(model, before)
    seen["models"] += 1
    seen["merged"] += bool(report.merged)
    seen["rewritten"] += any(m.kind == "rewrite" for m in report.merged)
    seen["merges"] += len(report.merged)
    for size in SIZES:
        ours, theirs = inputs((2, C, *size[:nd])), inputs((2, C, *size[:nd]))
        with torch.no_grad():
            wanted, got = model(theirs), converted(ours)
        error = gap(wanted, got)
        assert error <= RTOL, f"relative error {error:.3g}\n{report}"
        assert gap(theirs, ours) <= RTOL, f"the input is changed differently\n{report}"


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("policy", ["cheaper", "always"])
def test_random_forwards_are_converted_exactly_or_left_alone(policy: str) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(models())
    def law(model: nn.Module) -> None:
        check(copy.deepcopy(model), policy, seen)

    law()
    assert seen["merged"] > 0.2 * seen["models"], seen
    assert seen["rewritten"] > 0.05 * seen["models"], seen


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
def test_a_second_conversion_of_random_forwards_changes_nothing() -> None:
    @settings(max_examples=100)
    @given(models())
    def law(model: nn.Module) -> None:
        once, first = reparamkit.apply(randomize(copy.deepcopy(model)).double(), return_report=True)
        twice, second = reparamkit.apply(once, return_report=True)
        assert list(twice.state_dict()) == list(once.state_dict()), f"first {first}\nsecond {second}"
        assert not second.merged

    law()
