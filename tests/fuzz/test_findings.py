"""What the generated models found, each as small as it gets."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.testing import randomize
from tests.helpers import Fn, codes, convert, counts

Pair = collections.namedtuple("Pair", "first second")


class Ignores(nn.Module):
    """Takes more than it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        return self.wide(x) + self.narrow(x)


def test_a_block_that_is_given_more_than_it_reads_goes_on_working() -> None:
    for call in (lambda m, x: m.block(x, x).relu(), lambda m, x: m.block(x, scale=2).relu()):
        converted, _ = convert(Fn(call, block=Ignores()))
        assert counts(converted) == (1, 0)


def test_a_class_that_cannot_be_imported_is_no_exception() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return made(F.conv2d(x, m.wide.weight * 2, None, padding=1), x)

    namespace: dict[str, Any] = {"__name__": "never_registered"}
    exec("import collections\nPair = collections.namedtuple('Pair', 'first second')", namespace)
    made: Any = namespace["Pair"]
    _, report = convert(Fn(run, wide=nn.Conv2d(4, 4, 3, padding=1)))
    assert not report.merged
    assert "RK604" in codes(report)
    made = Pair
    _, report = convert(Fn(run, wide=nn.Conv2d(4, 4, 3, padding=1)))
    assert len(report.merged) == 1


def test_a_slice_is_no_comparison_with_none() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.back = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.back(self.front(x)) + x[:, [1, 0, 3, 2]]

    converted, report = reparamkit.apply(randomize(Sliced()).double(), return_report=True)
    assert counts(converted) == (1, 0)
    assert report.untraceable == ()


def test_a_constant_that_one_merge_does_away_with_stops_no_other() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.wide(x) + m.narrow(x)
        return F.conv2d(torch.relu(y), m.last.weight * 2, None, padding=1)

    model = Fn(run, wide=nn.Conv2d(4, 4, 3, padding=1), narrow=nn.Conv2d(4, 4, 1), last=nn.Conv2d(4, 4, 3, padding=1))
    converted, report = convert(model)
    assert len(report.merged) == 2
    assert counts(converted) == (2, 0)
    assert not reparamkit.plan(converted).edits


def test_a_constant_that_stays_still_does() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.wide(x) + m.narrow(x)
        return torch.relu(y) * torch.sigmoid(m.last.bias * 2).sum() + torch.relu(y).cumsum(1) ** m.last.bias.exp().sum()

    model = Fn(run, wide=nn.Conv2d(4, 4, 3, padding=1), narrow=nn.Conv2d(4, 4, 1), last=nn.Conv2d(4, 4, 3, padding=1))
    assert "RK604" in codes(convert(model)[1])


def test_a_forward_that_goes_two_ways_is_not_written_anew_for_one() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        front = m.front(x)
        other = front if front.size(0) > 100 else m.other(front)
        other.add_(front)
        return front + torch.relu(m.last(m.first(x) * 1))

    layers = {name: nn.Conv2d(4, 4, 1) for name in ("front", "other", "first", "last")}
    layers["front"] = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    _, report = convert(Fn(run, **layers))
    assert "RK604" in codes(report)
    assert not report.merged


def test_a_block_whose_caller_drops_its_result_keeps_what_it_returns() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x)).clone()
            _ = y * self.scale.exp() + self.scale
            return y

    def run(m: Any, x: Tensor) -> Tensor:
        m.dropped(x)
        return x * 1.5

    converted, report = convert(Fn(run, dropped=Dropped()), policy="always")
    assert counts(converted) == (1, 0)
    assert [m.path for m in report.merged] == ["dropped.conv"]


def test_example_inputs_that_the_forward_changes_stay_as_they_are() -> None:
    def run(m: Any, x: Tensor, times: int = 1) -> Tensor:
        x.add_(1)
        return m.norm(m.conv(x))

    model = Fn(run, conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4))
    x = torch.ones(1, 4, 3, 3, dtype=torch.float64)
    for example in (x, (x,), {"x": x}):
        _, report = convert(model, example_inputs=example)
        assert torch.equal(x, torch.ones_like(x))
        assert report.whole_model is not None
        assert report.whole_model.error < 1e-9


def test_a_hook_that_a_forward_goes_past_does_not_run_afterwards() -> None:
    """The sum takes a rewrite, and written anew the forward would call the child with its hooks."""
    model = Fn(lambda m, x: m.all[0](x) + m.all[1](x) + m.act.forward(x), all=nn.ModuleList([nn.Conv2d(4, 4, 1)]))
    model.all.append(nn.Conv2d(4, 4, 3, padding=1))
    model.act = nn.ReLU()
    assert len(convert(model)[1].merged) == 1
    model.act.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    _, report = reparamkit.apply(model, return_report=True)
    assert not report.merged
    assert "RK306" in codes(report)


class Unread(nn.Module):
    """A layer whose result nobody reads, behind a constant that the rest of the forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.conv = nn.Parameter(torch.ones(4)), nn.Conv2d(4, 4, 3, padding="same", padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(self.gain).view(1, -1, 1, 1)
        self.conv(y)
        return y


def test_a_constant_that_is_read_again_is_no_exception() -> None:
    converted, _ = convert(Unread(), policy="always")
    assert isinstance(converted, Unread)
    converted, _ = convert(Fn(lambda m, x: (m.inner(x), x)[1], inner=Unread()))
    assert counts(converted) == (1, 0)
