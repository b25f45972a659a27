"""What the generated models found, each as small as it gets."""

from __future__ import annotations

import collections
from typing import Any

import pytest
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


def settled(model: nn.Module, **options: Any) -> tuple[nn.Module, Any]:
    """The conversion under the policy that takes everything; one more finds nothing."""
    converted, report = convert(model, policy="always", **options)
    again = reparamkit.apply(converted, policy="always", return_report=True, **options)[1]
    assert not again.merged, again
    return converted, report


class Ended(nn.Module):
    """A sum that becomes a layer, and something that none of it can be merged with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(x) + self.conv(x))


def test_a_sum_in_a_child_that_became_a_layer_takes_the_scale_in_front_of_it() -> None:
    converted, report = settled(Fn(lambda m, x: m.block(torch.sigmoid(x) * 2) + x, block=Ended()))
    assert counts(converted) == (1, 0)
    assert len(report.merged) == 2


def test_a_layer_that_reads_what_is_changed_later_takes_the_sum_behind_it() -> None:
    def run(m: Any, x: Tensor) -> Any:
        front = torch.tanh(x)
        y = m.conv(front)
        front.clamp_(min=-0.5)
        return front, y + m.norm(y)

    converted, report = settled(Fn(run, conv=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4)))
    assert counts(converted) == (1, 0)
    assert len(report.merged) == 2


def test_a_sum_is_added_in_another_order_once_the_forward_goes_one_way() -> None:
    def run(m: Any, x: Tensor, more: Any = None) -> Any:
        flipped = x.flip(1)
        y = x + m.wide(x) if more is None else x
        return y, flipped + x + m.conv(flipped)

    layers = {"wide": nn.Conv2d(4, 4, 5, padding=2), "conv": nn.Conv2d(4, 4, 3, padding=1)}
    converted, report = settled(Fn(run, **layers))
    assert len(report.merged) == 2
    assert converted(torch.ones(1, 4, 3, 3, dtype=torch.float64))[0].shape == (1, 4, 3, 3)


def test_a_shape_that_is_read_steps_later_does_not_keep_what_was_merged() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x) + m.norm(x)
        return m.last(y) + y.shape[-1] * 2  # type: ignore[no-any-return]

    layers = {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "last": nn.Conv2d(4, 6, 1)}
    converted, report = settled(Fn(run, **layers))
    assert counts(converted) == (2, 0)  # the sum, whose shape is read, and the layer behind it
    assert "RK305" in codes(report)
    layers["last"] = nn.Conv2d(4, 4, 1)
    assert counts(settled(Fn(run, **layers))[0]) == (1, 0)  # it is as large as the sum


def test_a_shape_that_nobody_reads_does_not_keep_what_was_merged() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x) + m.norm(x)
        y.shape[2] + 1
        return m.last(y)  # type: ignore[no-any-return]

    layers = {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "last": nn.Conv2d(4, 4, 1)}
    assert counts(settled(Fn(run, **layers))[0]) == (1, 0)


class Beside(nn.Module):
    """Hands its input on, and computes something that nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        torch.cat([x, x], 0)
        return x


def test_a_child_that_computes_something_nobody_reads_is_still_called() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x + m.conv(x)
        m.beside(y)
        return m.norm(y)  # type: ignore[no-any-return]

    layers = {"conv": nn.Conv2d(4, 4, 3, padding=1), "beside": Beside(), "norm": nn.BatchNorm2d(4)}
    converted, _ = settled(Fn(run, **layers))
    assert isinstance(converted.beside, Beside)
    assert counts(converted) == (1, 1)


def test_a_reshape_to_a_whole_shape_tells_no_number_of_axes() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x).view(x.size(0), -1).view(x.shape)
        return torch.tanh(m.linear(m.norm(y).flatten(2).transpose(1, 2)))

    converted, report = settled(Fn(run, linear=nn.Linear(4, 4), norm=nn.BatchNorm2d(4)))
    assert len(report.merged) == 1
    assert counts(converted)[1] == 0


def test_a_kernel_of_another_size_than_the_layer_says() -> None:
    for padding, mode in ((1, "zeros"), ("same", "zeros"), ("same", "circular"), (0, "zeros")):
        layer = nn.Conv2d(4, 4, 3, padding=padding, padding_mode=mode)
        layer.weight = nn.Parameter(torch.randn(6, 4, 5, 1))
        layer.bias = nn.Parameter(torch.randn(6))
        converted, report = settled(nn.Sequential(layer, nn.BatchNorm2d(6)))
        assert counts(converted) == (1, 0)
        assert not report.refused
    linear = nn.Linear(4, 4)
    linear.weight, linear.bias = nn.Parameter(torch.randn(6, 5)), None
    model = nn.Sequential(linear, nn.BatchNorm1d(6))
    assert len(convert(model, (3, 5), example_inputs=torch.ones(3, 5, dtype=torch.float64))[1].merged) == 1


@pytest.mark.parametrize("child", [nn.ReLU(inplace=True), Fn(lambda m, x: torch.relu_(x) + 1)])
def test_what_a_child_changes_in_place_stays_changed_though_nobody_reads_its_result(child: nn.Module) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(torch.tanh(x)) + torch.tanh(x) * 0
        y = m.norm(m.conv(y) + y) * 2 + 1
        m.last(m.child(y) + y)
        return y

    layers = {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "last": nn.Identity()}
    _, report = settled(Fn(run, **layers, child=child))
    assert report.merged


def test_a_call_that_nobody_reads_does_not_go_with_what_hands_it_on() -> None:
    """Otherwise its layer, which is called elsewhere too, would be alone afterwards and merge in a second one."""

    def run(m: Any, x: Tensor) -> Tensor:
        m.act(m.shared(x) + x)
        y = m.shared(x)
        return torch.tanh(m.norm(m.conv(y) + y))

    layers = {"shared": nn.Conv2d(4, 4, 3, padding=1), "conv": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4)}
    converted, _ = settled(Fn(run, **layers, act=nn.Identity()))
    assert counts(converted) == (2, 0)


_ONE = (4,)


@pytest.mark.parametrize("shape", [lambda s: s[:2], lambda s: s[:1] + _ONE, lambda s: s[:-2], lambda s: (s[0], 4)])
def test_a_reshape_to_a_part_of_a_shape_tells_how_many_axes_there_are(shape: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(torch.relu(x), 1)
        return m.linear(m.norm(y.view(shape(y.shape))))  # type: ignore[no-any-return]

    converted, report = settled(Fn(run, norm=nn.BatchNorm1d(4), linear=nn.Linear(4, 3)))
    assert len(report.merged) == 1
    assert counts(converted)[1] == 0


class Busy(nn.Module):
    """A scale, and layers whose results nobody reads, one of them an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.linspace(-1, 1, 4).view(-1, 1, 1))
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        y = (x - self.shift) / 2
        self.inner(y)
        return y


def test_conversion_ends_where_a_child_changes_only_what_is_its_own() -> None:
    converted, report = settled(Fn(lambda m, x: torch.tanh(m.busy(torch.tanh(x) * 2)), busy=Busy()))
    assert len(report.merged) == 1
    assert counts(converted)[0] == 1


def test_a_batch_norm_whose_weight_has_more_axes_is_left() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight = nn.Parameter(torch.ones(4, 1, 1, 1))
    _, report = settled(nn.Sequential(nn.Conv2d(4, 4, 3), norm, nn.Conv2d(4, 4, 1)))
    assert "RK310" in codes(report)
    assert not report.merged


def test_slices_and_pools_without_a_weight_are_no_layer() -> None:
    """Nothing tells the dtype of one: it is not planned, and not refused when it is too late."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(torch.tanh(x))
        return torch.cat([y[:, :1], m.pool(y)[:, 1:]], 1) + torch.cat([y, y], 0)[:2]

    model = randomize(Fn(run, norm=nn.BatchNorm2d(4), pool=nn.AvgPool2d(3, 1, 1))).double()
    plan = reparamkit.plan(model, policy="always")
    _, report = reparamkit.apply(model, policy="always", return_report=True)
    assert len(plan.edits) == len(report.merged)
