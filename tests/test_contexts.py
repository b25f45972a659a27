"""Parts of a forward under `torch.no_grad` or the like: a merged layer is on one side only, so gradients stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import Fn, codes, conv_bn, convert

C = 4


class Quiet(nn.Module):
    """Runs what it holds without recording gradients."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x)


class OwnPrecision(nn.Module):
    """Runs what it holds without autocast."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.inner(x)


def conv(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(C, C, kernel, padding=kernel // 2)


def branches() -> nn.Module:
    return Fn(lambda m, x: m.wide(x) + m.narrow(x), wide=conv(), narrow=conv(1))


def switched_off(m: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        y = m.conv(x)
    return m.norm(y)  # type: ignore[no-any-return]


def second_half(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    with torch.no_grad():
        return m.norm(y)  # type: ignore[no-any-return]


def one_branch(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.wide(x)
    return y + m.narrow(x)  # type: ignore[no-any-return]


def whole_sum(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.wide(x) + m.narrow(x)  # type: ignore[no-any-return]


class Recorded(nn.Module):
    """Records gradients for what it holds, whatever its caller does."""

    def __init__(self, *inner: nn.Module, once: bool = True) -> None:
        super().__init__()
        self.inner, self.once = nn.Sequential(*inner), once

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad() if self.once else torch.set_grad_enabled(True):
            return self.inner(x)


def through_other_axes(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x).unsqueeze(0).squeeze(0)
    with torch.autocast("cpu", enabled=False):
        return m.norm(y)  # type: ignore[no-any-return]


def behind_an_average(m: Any, x: Tensor) -> Tensor:
    y = F.avg_pool2d(m.conv(x), 2)
    with torch.no_grad():
        return m.norm(y)  # type: ignore[no-any-return]


REFUSED = {
    "the norm behind axes that come and go": lambda: Fn(through_other_axes, conv=conv(), norm=nn.BatchNorm2d(C)),
    "the layer in front": lambda: Fn(switched_off, conv=conv(), norm=nn.BatchNorm2d(C)),
    "the norm behind": lambda: Fn(second_half, conv=conv(), norm=nn.BatchNorm2d(C)),
    "one branch": lambda: Fn(one_branch, wide=conv(), narrow=conv(1)),
    "a sum that would be written anew": lambda: Fn(whole_sum, wide=conv(), narrow=conv(1)),
    "a child that is a branch": lambda: Fn(lambda m, x: m.a(x) + m.b(x), a=Quiet(conv()), b=conv(1)),
    "a child in front": lambda: nn.Sequential(Quiet(conv()), nn.BatchNorm2d(C)),
    "a child behind": lambda: nn.Sequential(conv(), Quiet(nn.BatchNorm2d(C))),
    "autocast": lambda: nn.Sequential(OwnPrecision(conv()), nn.BatchNorm2d(C)),
    "recorded in what is not": lambda: Quiet(Recorded(conv()), nn.BatchNorm2d(C)),
    "recorded by another switch": lambda: Quiet(Recorded(conv(), once=False), nn.BatchNorm2d(C)),
    "recorded, whoever calls": lambda: nn.Sequential(Recorded(conv()), nn.BatchNorm2d(C)),
}
MERGED = {
    "a chain in one context": lambda: Quiet(conv(), nn.BatchNorm2d(C)),
    "children in the same context": lambda: nn.Sequential(Quiet(conv()), Quiet(nn.BatchNorm2d(C))),
    "a context in a context": lambda: Quiet(Quiet(conv()), nn.BatchNorm2d(C)),
    "a block that knows nothing of it": lambda: Quiet(branches()),
    "a part that is nowhere near it": lambda: nn.Sequential(Quiet(nn.ReLU()), *conv_bn(C, C, 3)),
    "autocast": lambda: OwnPrecision(conv(), nn.BatchNorm2d(C)),
    "all of it recorded": lambda: Quiet(Recorded(conv(), nn.BatchNorm2d(C)), nn.ReLU()),
    "behind what is recorded": lambda: nn.Sequential(Recorded(nn.ReLU()), conv(), nn.BatchNorm2d(C)),
}


def gradient(model: nn.Module) -> Tensor:
    """Of a weighted sum of the output, with respect to the input; zeros where none is passed on."""
    x = torch.randn(2, C, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    y = model(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (found,) = torch.autograd.grad((y * weights).sum() + 0 * x.sum(), x)
    return found


def check(model: nn.Module, **options: Any) -> Any:
    converted, report = convert(model, (2, C, 6, 6), policy="always", **options)
    torch.testing.assert_close(gradient(converted), gradient(model), rtol=1e-9, atol=1e-9)
    return report


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED)
def test_rk307_no_merge_across_a_context(made: Any) -> None:
    report = check(made())
    assert not report.merged
    assert codes(report) == {"RK307"}


def test_a_norm_does_not_go_in_front_of_an_average_in_another_context() -> None:
    report = check(Fn(behind_an_average, conv=conv(), norm=nn.BatchNorm2d(C)))
    assert not report.merged
    assert "RK307" in codes(report)


@pytest.mark.parametrize("made", MERGED.values(), ids=MERGED)
def test_what_runs_in_one_context_merges(made: Any) -> None:
    assert len(check(made()).merged) == 1
