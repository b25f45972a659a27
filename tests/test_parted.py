"""A scale and a shift in front of padded convolutions: the scale goes into them, the shift stays (core/parted)."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import reparamkit
from reparamkit import Report
from reparamkit.offset import Offset
from reparamkit.testing import randomize
from tests.helpers import Fn, assert_same, codes, convert, convert_as_is, inputs, merged_rules, unchanged

C = 4
IMAGE = (2, C, 7, 6)
_STEPS = ("mul", "div", "add", "sub", "rsub", "addcmul")


class _Steps(TorchDispatchMode):
    """Counts products and sums that are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran[str(func.overloadpacket).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


def steps(model: nn.Module, x: Tensor | None = None) -> int:
    """Products and sums that one call of `model` runs."""
    with torch.no_grad(), _Steps() as counted:
        model(inputs(IMAGE) if x is None else x)
    return sum(counted.ran[name] for name in _STEPS)


class Affine(nn.Module):
    """The learnable affine of PP-LCNetV3 and HGNetV2; `channels` of 1 is one number for all."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        shape = (1,) if channels == 1 else (1, channels, 1, 1)
        self.scale, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class Block(nn.Module):
    """Activation, affine and whatever reads it."""

    def __init__(self, affine: nn.Module, *readers: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.act, self.affine = act or nn.Hardswish(), affine
        self.readers = nn.ModuleList(readers)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.affine(self.act(x))
        return [reader(x) for reader in self.readers]


class RepBlock(nn.Module):
    """A block of branches, the identity among them, that is one convolution afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.Conv2d(C, C, 1, bias=False)
        self.norm, self.own = nn.BatchNorm2d(C), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.wide(x) + self.point(x) + x) + self.own(x)


def padded(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(C, 3, 3, **{"padding": 1, **options})


SPELLED: dict[str, Any] = {
    "product first": lambda m, x: x * m.s + m.t,
    "torch.add": lambda m, x: torch.add(torch.mul(x, m.s), m.t),
    "minus, divided": lambda m, x: (x - m.t) / m.s,
    "sum first": lambda m, x: m.s * (m.t + x),
    "three of them": lambda m, x: (x - m.t) / m.s * m.s.exp(),
    "taken from": lambda m, x: m.t - m.s * x,
    "numbers": lambda m, x: 2 * x - 1,
}
READERS: dict[str, Any] = {
    "one": lambda: [padded()],
    "depthwise, dilated, strided": lambda: [nn.Conv2d(C, C, 3, 2, padding=2, dilation=2, groups=C)],
    "padded and not": lambda: [padded(), nn.Conv2d(C, 5, 1), nn.Conv2d(C, 2, 3)],
    "twice as many": lambda: [padded(), padded(bias=False), nn.Conv2d(C, C, 5, padding="same", groups=2)],
    "branches": lambda: [RepBlock(), padded()],
    "norm behind": lambda: [nn.Sequential(padded(), nn.BatchNorm2d(3))],
    "nothing between": lambda: [nn.Sequential(nn.Identity(), nn.Dropout(), padded())],
    "transposed": lambda: [nn.ConvTranspose2d(C, 3, 3, padding=1)],
}


def scales(model: nn.Module) -> nn.Module:
    """Random numbers, scales of both signs that are no zero."""
    randomize(model, 2).double()
    for module in model.modules():
        if isinstance(module, Affine):
            sign = module.scale.data.sign()
            module.scale.data = sign * (module.scale.data.abs() + 0.5)
    return model.eval()


def parts(model: nn.Module, *shapes: Any, **options: Any) -> tuple[nn.Module, Report]:
    return convert_as_is(scales(model), *(shapes or (IMAGE, (1, C, 5, 9))), **options)


def test_numbers_here_have_both_signs() -> None:
    signs = scales(Affine(C)).scale.sign()
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("channels", [1, C])
@pytest.mark.parametrize("which", READERS)
def test_the_scale_goes_on_and_the_shift_stays(which: str, channels: int) -> None:
    model = Block(Affine(channels), *READERS[which]())
    deploy, report = parts(model)
    assert "core/parted" in merged_rules(report)
    assert steps(deploy) == 1
    assert type(deploy.affine).__name__ == "Affine"
    assert isinstance(deploy.affine, Affine)
    assert isinstance(deploy.affine.reparam, Offset)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in deploy.modules()) == 0
    assert len(list(deploy.affine.parameters())) == 1


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("how", SPELLED)
def test_however_it_is_written(how: str, inside: bool) -> None:
    """In a module of its own, and in the forward that calls the convolutions."""
    constants = {"s": nn.Parameter(torch.ones(C, 1, 1)), "t": nn.Parameter(torch.zeros(C, 1, 1))}
    if inside:
        convs = {"a": padded(), "b": padded()}
        model = Fn(lambda m, x: _both(m, SPELLED[how](m, x.sigmoid())), **constants, **convs)
    else:
        model = Block(Fn(SPELLED[how], **constants), padded(), padded())
    randomize(model, 3).double()
    assert steps(model.eval()) >= 2
    deploy, report = convert_as_is(model, IMAGE)
    assert "core/parted" in merged_rules(report)
    assert steps(deploy) == 1


def _both(m: Any, x: Tensor) -> list[Tensor]:
    return [m.a(x), m.b(x)]


def test_the_input_of_a_model_is_normalised_by_its_first_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.rand(1, C, 1, 1))
            self.register_buffer("std", torch.rand(1, C, 1, 1) + 0.5)
            self.stem, self.side = padded(stride=2), padded(stride=2)

        def forward(self, x: Tensor) -> Tensor:
            x = (x - self.mean) / self.std
            return self.stem(x).relu() + self.side(x)

    deploy, report = convert_as_is(randomize(Net(), 1).double().eval(), IMAGE)
    assert steps(deploy) == 2
    assert sorted(m.path for m in report.merged) == ["reparam", "side", "stem"]


def test_where_the_shift_may_go_all_of_it_goes() -> None:
    """The twins that need no such form: other padding, no padding, no shift."""
    wraps = Block(Affine(C), *(padded(padding_mode=mode) for mode in ("reflect", "replicate", "circular")))
    plain = Block(Affine(), nn.Conv2d(C, 3, 1), nn.Conv2d(C, 3, 3))
    for model in (wraps, plain):
        deploy, _ = parts(model)
        assert steps(deploy) == 0
        assert not any(isinstance(m, Offset) for m in deploy.modules())
        assert type(deploy.affine) is nn.Identity
    linear = scales(Block(Affine(C), padded()))
    linear.affine.bias.data.zero_()
    assert steps(convert_as_is(linear, IMAGE)[0]) <= 1


LEFT: dict[str, Any] = {
    "returned as well": lambda x, m: [m.a(x), x],
    "read by an activation": lambda x, m: [m.a(x), x.relu()],
    "read by a product of values": lambda x, m: m.a(x * x.mean((2, 3), keepdim=True)),
    "read by a maximum": lambda x, m: [m.a(x), torch.max_pool2d(x, 2)],
    "stacked": lambda x, m: m.a(torch.cat([x[:, :2], x[:, 2:].sigmoid()], 1)),
    "changed in place": lambda x, m: [m.a(x), x.add_(1)],
}


@pytest.mark.parametrize("what", LEFT)
def test_what_else_reads_it_keeps_both(what: str) -> None:
    model = Fn(lambda m, x: LEFT[what](m.affine(x.sigmoid()), m), affine=Affine(C), a=padded())
    before = steps(scales(model))
    deploy, report = convert_as_is(model, IMAGE)
    assert steps(deploy) == before
    assert "core/parted" not in merged_rules(report)


ONE_KERNEL: dict[str, nn.Module] = {
    "batch norm": nn.BatchNorm2d(C),
    "addcmul": Fn(lambda m, x: torch.addcmul(m.t, x, m.s), s=nn.Parameter(torch.ones(C, 1, 1)), t=Affine(C).bias),
    "only a shift": Fn(lambda m, x: x + m.t, t=nn.Parameter(torch.ones(C, 1, 1))),
    "in place": Fn(lambda m, x: x.mul_(m.s).add_(m.s), s=nn.Parameter(torch.ones(C, 1, 1))),
}


@pytest.mark.parametrize("what", ONE_KERNEL)
def test_what_would_be_no_fewer_kernels_stays(what: str) -> None:
    model = Block(copy.deepcopy(ONE_KERNEL[what]), padded())
    deploy, report = convert(model, IMAGE)
    assert "core/parted" not in merged_rules(report)
    assert not any(isinstance(m, Offset) for m in deploy.modules())


def test_a_channel_that_is_scaled_to_nothing_is_refused_with_its_number() -> None:
    model = scales(Block(Affine(C), padded()))
    model.affine.scale.data[0, [1, 3]] = 0.0
    deploy, report = convert_as_is(model, IMAGE)
    assert steps(deploy) == 2
    told = next(r for r in report.refused if r.code == "RK322")
    assert (told.where, told.reason) == ("affine.add", "2 of 4 channels are scaled by 0 and shifted")


def test_a_shift_without_room_in_its_dtype_is_refused() -> None:
    model = scales(Block(Affine(), padded())).half()
    model.affine.scale.data.fill_(1e-3)
    model.affine.bias.data.fill_(1.0)
    _, report = reparamkit.apply(model, return_report=True)
    assert "RK501" in codes(report)
    model.affine.bias.data.fill_(0.1)
    deploy, report = reparamkit.apply(model, return_report=True)
    assert deploy.affine.reparam.bias.dtype == torch.float16
    assert "RK501" not in codes(report)


def test_one_layer_that_cannot_take_it_keeps_all_as_they_are() -> None:
    tied = padded()
    readers = [padded(), nn.Sequential(tied, nn.ReLU(), nn.Conv2d(3, C, 1), tied)]
    deploy, report = parts(Block(Affine(), *readers))
    assert steps(deploy) == 2
    assert "core/parted" not in merged_rules(report)


def test_observed_and_shared_affines_stay() -> None:
    hooked = Block(Affine(), padded())
    hooked.affine.register_forward_hook(lambda m, x, y: None)
    shared = Affine()
    twice = nn.Sequential(nn.Hardswish(), shared, nn.Conv2d(C, C, 3, padding=1), nn.Hardswish(), shared, padded())
    for model in (hooked, twice):
        before = steps(scales(model))
        deploy, report = convert_as_is(model, IMAGE)
        assert steps(deploy) == before
        assert "core/parted" not in merged_rules(report)


class Told(nn.Module):
    """Returns what is between, where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = Block(Affine(), padded()), padded(bias=False)
        self.affine = Affine()
        self.conv = padded()

    def forward(self, x: Tensor, tell: bool = False) -> Any:
        between = self.affine(torch.nn.functional.gelu(x))
        made = [*self.body(x), self.conv(between)]
        return (made, between) if tell else made


def test_a_value_that_is_returned_where_it_is_asked_for_stays_and_what_is_in_a_child_goes() -> None:
    model = scales(Told())
    deploy, _ = convert_as_is(model, IMAGE)
    x = inputs(IMAGE)
    with torch.no_grad():
        wanted, got = model(x, tell=True), deploy(x, tell=True)
    assert torch.allclose(wanted[1], got[1], rtol=1e-9)
    assert torch.allclose(wanted[0][1], got[0][1], rtol=1e-9)
    assert isinstance(deploy.body.affine.reparam, Offset)
    assert not hasattr(deploy.affine, "reparam")


def test_a_second_time_nothing_is_done_and_it_can_be_undone_copied_and_pickled() -> None:
    model = scales(Block(Affine(C), padded(), RepBlock()))
    x = inputs(IMAGE)
    deploy, report = reparamkit.apply(copy.deepcopy(model), inplace=True, keep_original=True, return_report=True)
    again, nothing = reparamkit.apply(deploy, return_report=True)
    assert not nothing.merged
    wanted = deploy(x)
    for other in (again, copy.deepcopy(deploy), pickle.loads(pickle.dumps(deploy))):
        assert all(torch.equal(a, b) for a, b in zip(other(x), wanted, strict=True))
    report.undo()
    assert list(deploy.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(deploy(x), model(x), strict=True))


def test_where_the_numbers_went() -> None:
    model = scales(Block(Affine(C), padded()))
    model.affine.scale.requires_grad_(False)
    deploy, report = convert_as_is(model, IMAGE)
    assert set(report.key_map["affine.scale"]) == {"affine.reparam.bias", "readers.0.weight", "readers.0.bias"}
    assert report.key_map["affine.bias"][0] == "affine.reparam.bias"
    wanted = (model.affine.bias / model.affine.scale).reshape(C, 1, 1)
    assert torch.equal(deploy.affine.reparam.bias, wanted)
    assert deploy.affine.reparam.bias.requires_grad
    assert torch.allclose(deploy.readers[0].weight, model.readers[0].weight * model.affine.scale)


def test_the_plan_says_so_and_holds_for_another_model() -> None:
    first, other = scales(Block(Affine(), padded())), scales(Block(Affine(), padded()))
    randomize(other, 5).double()
    made = reparamkit.plan(first)
    assert "affine.reparam: mul + add -> Offset" in str(made)
    assert_same(other, made.apply_to(other), IMAGE)


def test_a_recipe_may_switch_it_off() -> None:
    recipe = {"version": 1, "name": "whole", "extends": "auto", "disable": ["core/parted"]}
    deploy, report = parts(Block(Affine(), padded()), recipe=recipe)
    assert steps(deploy) == 2
    assert "RK316" in codes(report)


@pytest.mark.parametrize("act", [nn.GELU(), nn.ReLU()])
def test_weights_are_stored_and_come_back(act: nn.Module, tmp_path: Path) -> None:
    """Behind a ReLU a positive scale goes to the front, so what is stored of a negative one has another form."""
    model = scales(
        nn.Sequential(padded(), Fn(lambda m, x: m.up(x), up=nn.Conv2d(3, C, 1)), Block(Affine(), padded(), act=act))
    )
    model[2].affine.scale.data.abs_().neg_()
    deploy, report = reparamkit.apply(model, return_report=True)
    assert "core/parted" in merged_rules(report)
    reparamkit.save(deploy, tmp_path / "w.safetensors", report)
    fresh = nn.Sequential(padded(), Fn(lambda m, x: m.up(x), up=nn.Conv2d(3, C, 1)), Block(Affine(), padded(), act=act))
    again = reparamkit.load(fresh.double().eval(), tmp_path / "w.safetensors")
    assert torch.equal(again(inputs(IMAGE))[0], deploy(inputs(IMAGE))[0])


def test_a_wrong_offset_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from reparamkit.decide import parted as decided

    def wrong(op: Any, dtype: Any) -> Any:
        scale, offset = original(op, dtype)
        return scale, type(offset)(offset.scale, offset.shift * 1.001, offset.nd)

    original = decided.parted
    monkeypatch.setattr(decided, "parted", wrong)
    with pytest.raises(reparamkit.VerificationError, match=r"RK901.*core/parted"):
        reparamkit.apply(scales(Block(Affine(C), padded())))


def test_when_one_of_the_layers_overflows_none_of_it_is_done() -> None:
    model = scales(Block(Affine(), padded(), padded())).half()
    model.affine.scale.data.fill_(100.0)
    model.readers[1].weight.data.fill_(1000.0)
    with unchanged(model):
        deploy, report = reparamkit.apply(model, return_report=True)
    assert "RK501" in codes(report)
    assert not report.merged
    assert torch.equal(deploy.affine.scale, model.affine.scale)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_random_readers_of_random_geometry(data: st.DataObject) -> None:
    nd = data.draw(st.integers(1, 3))
    kinds: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    readers = []
    for _ in range(data.draw(st.integers(1, 3))):
        kernel, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
        readers.append(
            kinds[nd](
                C,
                C,
                kernel,
                stride=data.draw(st.integers(1, 2)),
                padding=data.draw(st.integers(0, 2)),
                dilation=dilation,
                groups=data.draw(st.sampled_from([1, 2, C])),
                padding_mode=data.draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "circular"])),
            )
        )
    whole = all(r.padding_mode != "zeros" or not any(r.padding) for r in readers)
    shape = data.draw(st.sampled_from([(1,), (C, *[1] * nd)]))
    affine = Fn(lambda m, x: m.s * x + m.t, s=nn.Parameter(torch.ones(shape)), t=nn.Parameter(torch.zeros(shape)))
    model = randomize(Block(affine, *readers), data.draw(st.integers(0, 99))).double().eval()
    affine.s.data = affine.s.data + affine.s.data.sign() * 0.1
    sizes = (2, C, *range(6, 6 + nd))
    deploy, report = convert_as_is(model, sizes)
    assert steps(deploy, inputs(sizes)) == (0 if whole else 1), report


@pytest.mark.parametrize("run", [lambda m, x: x * m.s, lambda m, x: x + m.s, lambda m, x: (x + m.s) / m.s])
def test_a_module_that_only_scales_or_shifts_goes_into_several_layers(run: Any) -> None:
    """No norm, so `core/spread` leaves it; the twin with one padded layer keeps what it adds."""
    affine = Fn(run, s=nn.Parameter(torch.ones(C, 1, 1)))
    free = [nn.Conv2d(C, 3, 1), nn.Conv2d(C, 2, 3, bias=False)]
    deploy, report = convert(Block(affine, *free), IMAGE)
    assert steps(deploy) == 0
    assert "core/parted" in merged_rules(report)
    fixed = convert(Block(copy.deepcopy(affine), *copy.deepcopy(free), padded()), IMAGE)[0]
    assert steps(fixed) == int(bool((run(affine, torch.zeros(1, C, 1, 1)) != 0).any()))


@pytest.mark.parametrize("policy", ["always", "measured"])
def test_other_policies_do_not_add_steps(policy: str) -> None:
    model = scales(Block(Affine(C), padded(), RepBlock()))
    deploy, _ = convert_as_is(model, IMAGE, policy=policy, example_inputs=inputs(IMAGE))
    assert steps(deploy) <= 1


def test_calls_of_functions_read_it_too() -> None:
    constants = {name: nn.Parameter(torch.ones(C, 1, 1)) for name in ("s", "t")}
    kernels = {name: nn.Parameter(torch.ones(C, C, 3, 3)) for name in ("v", "w")}

    def forward(m: Any, x: Tensor) -> Tensor:
        y = x.sigmoid() * m.s + m.t
        return nn.functional.conv2d(y, m.v, padding=1).relu() * nn.functional.conv2d(y, m.w, padding=1)

    deploy, report = convert(Fn(forward, **constants, **kernels), IMAGE)
    assert "core/parted" in merged_rules(report)
    assert steps(deploy) == 2
