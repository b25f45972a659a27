"""Forwards that ask about what they are given: whatever the answer, the conversion is exact; where that is the same
for every answer, they are converted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import IMAGES, Fn, assert_same, codes, conv_bn, convert, counts, inputs


def _relu_if(question: Callable[[Tensor], Any]) -> nn.Module:
    """Between the convolution and its norm stands an activation, or does not: nothing may be folded."""
    conv, norm = conv_bn(4, 4, 3, padding=1)
    return Fn(lambda m, x: m.norm(m.conv(x).relu() if m.asks(x) else m.conv(x)), conv=conv, norm=norm, asks=question)


def _caught(x: Tensor) -> bool:
    try:
        return bool(x.shape[0] > 0)
    except RuntimeError:
        return False


QUESTIONS: dict[str, Callable[[Tensor], Any]] = {
    "isinstance": lambda x: isinstance(x, Tensor),
    "isinstance of several": lambda x: isinstance(x, (list, Tensor)),
    "not a list": lambda x: not isinstance(x, list),
    "is_tensor": torch.is_tensor,
    "type": lambda x: type(x) is Tensor,
    "types": lambda x: type(x) in (Tensor, nn.Parameter),
    "no such attribute": lambda x: not hasattr(x, "tensors"),
    "attribute": lambda x: getattr(x, "mask", None) is None,
    "dtype": lambda x: x.dtype is torch.float64,
    "dtype equal": lambda x: x.dtype == torch.float64,
    "size": lambda x: x.shape[-1] > 0,
    "rank": lambda x: len(x.shape) == 4,
    "dim": lambda x: x.dim() == 4,
    "int": lambda x: int(x.shape[0]) > 0,
    "ceil": lambda x: math.ceil(x.shape[0] / 2) > 0,
    "min": lambda x: min(x.shape[0], 3) > 0,
    "caught": _caught,
    "data": lambda x: x.abs().sum() > 0,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_about_the_input_is_never_answered_by_the_proxy(question: str) -> None:
    converted, _ = convert(_relu_if(QUESTIONS[question]))
    assert counts(converted) == (1, 1)


@pytest.mark.parametrize("question", ["isinstance", "no such attribute", "size", "rank", "int", "ceil", "min", "data"])
def test_what_is_the_same_for_every_answer_is_merged(question: str) -> None:
    conv, norm = conv_bn(4, 4, 3, padding=1)

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(m.conv(x))
        return F.relu(y) if m.asks(x) else y

    assert counts(convert(Fn(run, conv=conv, norm=norm, asks=QUESTIONS[question]))[0]) == (1, 0)


class SamePadding(nn.Module):
    """MobileNet as TensorFlow pads it: how much depends on the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv_bn(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(_padded(x, self.conv))).relu()  # type: ignore[no-any-return]


def _padded(x: Tensor, conv: Any) -> Tensor:
    height, width = x.shape[-2:]
    around = []
    for size, stride, kernel in zip((width, height), conv.stride, conv.kernel_size, strict=True):
        along = max(kernel - stride, 0) if size % stride == 0 else max(kernel - int(size) % stride, 0)
        around += [along // 2, along - along // 2]
    return F.pad(x, around)


def test_padding_that_depends_on_the_size() -> None:
    converted, _ = convert(SamePadding(), *IMAGES)
    assert counts(converted) == (1, 0)


class Optional(nn.Module):
    """An argument that changes what stands between the convolution and the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv_bn(4, 4, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None = None, *, twice: bool = False) -> Tensor:
        y = self.conv(x)
        if skip is not None:
            y = y * skip
        if twice is True:
            y = y.relu()
        return self.norm(y)  # type: ignore[no-any-return]


def _loop(m: Any, x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        return m.f(x, twice=True)  # type: ignore[no-any-return]
    return x


@pytest.mark.parametrize(
    ("run", "left"),
    [
        (lambda m, x: m.f(x), (1, 0)),
        (lambda m, x: m.f(x, None), (1, 0)),
        (lambda m, x: m.f(x, skip=None, twice=False), (1, 0)),
        (lambda m, x: m.f(x, x), (1, 1)),
        (lambda m, x: m.f(x, skip=x), (1, 1)),
        (lambda m, x: m.f(x, twice=True), (1, 1)),
        (_loop, (1, 1)),
    ],
)
def test_optional_arguments(run: Any, left: tuple[int, int]) -> None:
    assert counts(convert(Fn(run, f=Optional()))[0]) == left


def test_a_model_may_be_called_with_its_optional_arguments() -> None:
    converted, _ = convert(Optional())
    assert counts(converted) == (1, 1)


def test_a_forward_with_several_ways_is_not_written_anew_for_one_of_them() -> None:
    """Layers in a list take a rewrite; both ways call them alike, but what is returned differs."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = x if x.shape[0] > 100 else x.relu()
        for layer in m.all:
            x = layer(x) * 1
        return x + y

    model = Fn(run, all=nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2)))
    converted, _ = convert(model)
    assert type(converted) is Fn


class Masked(nn.Module):
    """Attention as far as it matters here: what it does in the end depends on the mask, its convolution comes first.

    Args:
        before: what it does with its input, given the mask.
    """

    def __init__(self, before: Any) -> None:
        super().__init__()
        self.conv, self.before = nn.Conv2d(4, 4, 1), before

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.conv(self.before(x, mask))
        return y if mask is None else y * mask  # type: ignore[no-any-return]


class Block(nn.Module):
    """Hands the mask on, as the blocks of vision transformers do."""

    def __init__(self, before: Any) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm2d(4), Masked(before)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.inner(self.norm(x.relu()), mask).relu()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("before", "norms"),
    [
        (lambda x, mask: x, 0),
        (lambda x, mask: x if mask is None else x.relu(), 1),
        (lambda x, mask: x.relu() if mask is None else x, 1),
        (lambda x, mask: x if mask is None else x * 2, 1),
    ],
)
def test_what_a_child_does_with_an_argument_is_looked_at_for_every_way(before: Any, norms: int) -> None:
    """The loop hides who calls the block with what; each way of the block then calls its child one way."""

    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(x.shape[0] - 1):
            x = m.f(x, x)
        return m.f(x)  # type: ignore[no-any-return]

    converted, _ = convert(Fn(run, f=Block(before)))
    assert counts(converted) == (1, norms)


class Either(nn.Module):
    """One scale or another, and an activation only without the second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x * self.one).relu() if mask is None else x * self.other


class Plain(nn.Module):
    """A scale, and an argument that it does not look at."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * self.one


@pytest.mark.parametrize(("child", "merged"), [(Either, 0), (Plain, 1)])
def test_a_child_with_a_second_argument_is_not_replaced_by_an_identity(child: Any, merged: int) -> None:
    model = Fn(lambda m, x: m.f(m.conv(x), x), conv=nn.Conv2d(4, 4, 3, padding=1), f=child())
    converted: Any
    converted, report = convert(model)
    assert len(report.merged) == merged
    assert isinstance(converted.f, child)


class Branches(nn.Module):
    """A forward that must be rewritten, with an argument nobody gives."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.a(x) + self.b(x)
        return y if scale is None else y * scale  # type: ignore[no-any-return]


def test_a_rewritten_forward_refuses_arguments_it_was_not_traced_for() -> None:
    converted, _ = convert(Branches())
    assert counts(converted) == (1, 0)
    with pytest.raises(RuntimeError, match="RK103"):
        converted(inputs(IMAGES[0]), inputs(IMAGES[0]))


class ScaledLinear(nn.Module):
    """BEiT's layer: layer scale, and an argument that only some callers give."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gamma = nn.Linear(9, 9), nn.Parameter(torch.ones(9))

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        y = self.gamma * self.fc(x)
        return y if scale is None else y * scale  # type: ignore[no-any-return]


def test_a_call_that_worked_still_works_when_its_caller_could_not_be_traced() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):
            x = m.f(x, scale=2.0)
        return x

    converted, report = convert(Fn(run, f=ScaledLinear()), (2, 9))
    assert not report.merged
    assert converted(torch.zeros(1, 9, dtype=torch.float64)).shape == (1, 9)


class Guarded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv_bn(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:
            raise ValueError(f"expected 4 channels, got {x.shape[1]}")
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


def test_a_check_of_the_input_survives() -> None:
    converted, _ = convert(Fn(lambda m, x: m.f(x) + m.g(x), f=Guarded(), g=Guarded()))
    assert counts(converted)[1] == 0
    with pytest.raises(ValueError, match="expected 4 channels, got 5"):
        converted(torch.zeros(1, 5, 8, 8, dtype=torch.float64))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv_bn(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.relu() if isinstance(x, Tensor) else y  # type: ignore[no-any-return]


class Derived(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))  # type: ignore[no-any-return]


def test_code_of_a_base_class_asks_as_well() -> None:
    assert counts(convert(Derived())[0]) == (1, 1)


@pytest.mark.parametrize("parts", [lambda x: list(x.chunk(2, 1)), lambda x: [*torch.split(x, [2, 2], 1)]])
def test_lists_of_parts(parts: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = parts(m.stem(x))
        y.extend(m.norm(m.conv(y[-1])) for _ in range(1))
        return torch.cat(y, 1)

    conv, norm = conv_bn(2, 2, 3, padding=1)
    assert counts(convert(Fn(run, stem=nn.Conv2d(4, 4, 1), conv=conv, norm=norm))[0]) == (2, 0)


def test_too_many_ways_are_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        for axis in (0, 1, 2, 3):
            for size in range(20):
                y = y if x.shape[axis] != size else y + 1
        return m.norm(y)  # type: ignore[no-any-return]

    conv, norm = conv_bn(4, 4, 3, padding=1)
    converted, report = convert(Fn(run, conv=conv, norm=norm))
    assert counts(converted) == (1, 1)
    assert "RK604" in codes(report)


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch.cat of torch 2.6 takes no symbol for its list")
def test_a_forward_that_converts_a_list_or_a_tensor() -> None:
    """DenseNet's layer takes either; it is the same afterwards."""

    def run(m: Any, x: Any) -> Tensor:
        xs = [x] if isinstance(x, Tensor) else x
        return m.norm(m.conv(torch.cat(xs, 1))).relu()  # type: ignore[no-any-return]

    conv, norm = conv_bn(4, 4, 3, padding=1)
    model = Fn(run, conv=conv, norm=norm)
    converted, _ = convert(model)
    assert counts(converted) == (1, 0)
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert torch.equal(converted([x]), converted(x))
    assert_same(model, converted)


def test_nothing_is_left_behind() -> None:
    """Forward, class and globals of the user's module are the very same afterwards."""
    model = SamePadding().eval()
    before = (SamePadding.forward, SamePadding.forward.__globals__["_padded"], int, isinstance)
    reparamkit.plan(model)
    assert before == (SamePadding.forward, SamePadding.forward.__globals__["_padded"], int, isinstance)
    assert type(SamePadding.forward.__globals__) is dict


class Residual(nn.Module):
    """A sum at its end, of which one operand is known to be a tensor, or is not."""

    def __init__(self, known: bool) -> None:
        super().__init__()
        self.conv, self.known = nn.Conv2d(4, 4, 3, padding=1), known

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) if self.known else x.frobnicate(self.conv)  # type: ignore[operator]
        return y + x


class Features(nn.Module):
    """As timm's `features_only`: asks of every stage whether it returned a list."""

    def __init__(self, stages: int, known: bool = True) -> None:
        super().__init__()
        self.stem, self.norm = conv_bn(4, 4, 3, padding=1)
        self.stages = nn.ModuleList(nn.Sequential(Residual(True), Residual(known)) for _ in range(stages))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.norm(self.stem(x)), []
        for stage in self.stages:
            x = stage(x)
            found.append(x[0] if isinstance(x, (tuple, list)) else x)
        return found


def test_a_sum_with_a_tensor_is_a_tensor() -> None:
    """Six stages would be 64 ways; there is one."""
    deploy, report = convert(Features(6))
    assert counts(deploy) == (13, 0)
    assert "RK604" not in codes(report)


def test_a_sum_of_what_is_not_known_is_asked_about() -> None:
    """The must-refuse twin: the second operand of each sum may be anything."""
    report = reparamkit.plan(Features(6, known=False).eval())
    assert any("more than 48 ways" in r.reason for r in report.refusals)


@pytest.mark.parametrize(
    "wanted",
    [lambda m, x: bool(m.flag), lambda m, x: isinstance(m.flag, bool), lambda m, x: bool(x.sum() > 0)],
    ids=["truth", "class", "truth of the input"],
)
def test_a_forward_may_call_bool_by_its_name(wanted: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.bn(m.conv(x))
        return y.relu() if wanted(m, x) else y

    model = Fn(forward, conv=nn.Conv2d(4, 4, 3), bn=nn.BatchNorm2d(4), flag=True)
    deploy, report = convert(model)
    assert counts(deploy) == (1, 0), report
    assert report.untraceable == ()


class MaybeMasked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask


class ScaledLayer(nn.Module):
    """As a layer of transformers: what else it is given goes to a child."""

    def __init__(self) -> None:
        super().__init__()
        self.masked, self.point = MaybeMasked(), nn.Linear(4, 4)
        self.gamma = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        found: Tensor = self.point(self.masked(x, **kwargs).tanh()) * self.gamma
        return found


class Stage(nn.Module):
    """Hands what else it is given to its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ScaledLayer()

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        found: Tensor = self.layer(x, **kwargs)
        return found


def test_a_layer_that_is_given_what_its_caller_is_given_goes_on_taking_it() -> None:
    x, mask = torch.randn(2, 3, 4), torch.tensor([0.0, 1.0, 2.0, -1.0])
    model = Stage().eval()
    deploy = reparamkit.apply(model)
    for given in ({}, {"mask": mask}):
        assert torch.equal(deploy(x, **given), model(x, **given))
    assert [r.reason for r in reparamkit.plan(model).refusals if r.code == "RK604"]
    # The twin: every call of the layer is seen, and none gives it more.
    deploy, report = convert(Fn(lambda m, x: m.layer(x), layer=ScaledLayer()), (2, 3, 4))
    assert [merged.rules for merged in report.merged] == [("core/linear", "core/scale")]
