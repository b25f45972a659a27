"""Forwards as other codebases write them: how they hold their modules, pad, freeze, and ask for sizes."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import conv_bn, convert, counts, gap, inputs


class MixedOps(nn.Module):
    """Lists of lists of branches, as search spaces have them; of the second list only one branch merges further."""

    def __init__(self) -> None:
        super().__init__()
        every = [
            [nn.Sequential(*conv_bn(4, 4, 3, padding=1)), nn.Sequential(*conv_bn(4, 4, 1))],
            [
                nn.Sequential(*conv_bn(4, 4, (1, 3), padding=(0, 1))),
                nn.Sequential(*conv_bn(4, 4, (3, 1), padding=(1, 0))),
            ],
        ]
        self.ops = nn.ModuleList([nn.ModuleList(branches) for branches in every])
        self.skips = nn.ModuleDict({"first": nn.BatchNorm2d(4), "second": nn.BatchNorm2d(4)})

    def forward(self, x: Tensor) -> Tensor:
        for branches, skip in zip(self.ops, self.skips.values(), strict=True):
            y = skip(x)
            for branch in branches:  # type: ignore[attr-defined]
                y += branch(x)
            x = F.relu6(y, inplace=True)
        return x


def test_lists_in_lists_keep_their_places() -> None:
    deploy: Any = convert(MixedOps())[0]
    assert counts(deploy) == (3, 0)
    assert [name for name, _ in deploy.ops.named_children()] == ["0", "1"]
    assert [name for name, _ in deploy.ops[1].named_children()] == ["0", "1"]
    assert counts(deploy.ops[1]) == (1, 0)


class CastAffine(nn.Module):
    """Parameters cast to the dtype of the input, as language models write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gain = torch.sigmoid(self.weight.to(x.dtype)).view(1, -1, 1, 1)
        return x * gain + self.shift.to(x.device).type_as(x)


def test_parameters_cast_to_the_dtype_of_the_input() -> None:
    deploy, report = convert(nn.Sequential(nn.Conv2d(4, 6, 3), CastAffine(6), nn.ReLU()))
    assert len(report.merged) == 1
    assert not list(deploy[1].parameters())  # type: ignore[index]
    assert {k for k, v in report.key_map.items() if v == ("0.weight", "0.bias")} > {"1.weight", "1.shift"}


class Counted(CastAffine):
    """What was cast is changed before it is used."""

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.to(x.dtype, copy=True)
        twice = gain.view(-1, 1, 1)
        gain.mul_(2)
        return x * twice


def test_parameters_that_are_cast_and_changed_are_no_constants() -> None:
    assert convert(nn.Sequential(nn.Conv2d(4, 6, 3), Counted(6)))[1].merged == ()


class FrozenNorm(nn.Module):
    """A frozen batch norm that computes in one way for gradients, in another without (as in detectron2)."""

    twice: ClassVar[float] = 1.0

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        given: Any = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, var, weight, bias = given
        if x.requires_grad:
            scale = weight * (var + self.eps).rsqrt() * self.twice
            shift = (bias - mean * scale).reshape(1, -1, 1, 1)
            return x * scale.reshape(1, -1, 1, 1).to(x.dtype) + shift.to(x.dtype)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)


class NormedConv(nn.Conv2d):
    """A convolution with a norm of its own, as in detectron2."""

    def __init__(self, *args: Any, norm: nn.Module, **options: Any) -> None:
        super().__init__(*args, bias=False, **options)
        self.norm = norm

    def forward(self, x: Tensor) -> Any:
        return self.norm(F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups))


class FrozenRep(nn.Module):
    def __init__(self, norm: type[FrozenNorm]) -> None:
        super().__init__()
        self.wide, self.narrow = NormedConv(4, 4, 3, padding=1, norm=norm(4)), NormedConv(4, 4, 1, norm=norm(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.wide(x) + self.narrow(x) + x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forwards_that_are_one_operator_whichever_way_they_go(dtype: torch.dtype) -> None:
    deploy, report = convert(FrozenRep(FrozenNorm))
    assert counts(deploy) == (1, 0)
    assert not report.untraceable
    again: Any = reparamkit.apply(FrozenRep(FrozenNorm).eval().to(dtype))
    assert again.reparam.weight.dtype == dtype
    x = inputs((1, 4, 7, 7))
    wanted = deploy(x)
    assert torch.equal(deploy(x.requires_grad_()), wanted)


class Differing(FrozenNorm):
    twice = 2.0


def test_forwards_that_are_two_operators_stay() -> None:
    deploy, report = convert(nn.Sequential(nn.Conv2d(4, 4, 3), Differing(4)))
    assert report.merged == ()
    assert isinstance(deploy[1], Differing)  # type: ignore[index]


class PaddedConv(nn.Module):
    """Pads by what it computes from the length of its input (as in SpeechBrain)."""

    def __init__(self, taps: int, amount: Any) -> None:
        super().__init__()
        self.conv, self.taps, self.amount = nn.Conv1d(4, 4, taps), taps, amount

    def forward(self, x: Tensor) -> Any:
        length = x.shape[-1]
        made = math.floor((length - (self.taps - 1) - 1) / 1) + 1
        pads = [self.amount(length, made), self.amount(length, made)]
        return self.conv(F.pad(x, pads))


class PaddedRep(nn.Module):
    def __init__(self, amount: Any) -> None:
        super().__init__()
        self.wide, self.narrow = PaddedConv(3, amount), PaddedConv(1, amount)
        self.norms = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.norms
        return F.relu(a(self.wide(x)) + b(self.narrow(x)) + c(x))


SIGNALS = ((2, 4, 9), (1, 4, 14))


@pytest.mark.parametrize(
    "amount",
    [
        lambda length, made: math.floor((length - made) / 2),
        lambda length, made: (length - made) // 2,
        lambda length, made: math.ceil(0.5 * length - made / 2),
        lambda length, made: (2 * length - made - length) // 2,
    ],
)
def test_padding_that_is_the_same_for_every_size(amount: Any) -> None:
    deploy, _ = convert(PaddedRep(amount), *SIGNALS)
    assert counts(deploy) == (1, 0)


@pytest.mark.parametrize(
    "amount",
    [
        lambda length, made: (length - made) // 2 + (length > 0) * 0,
        lambda length, made: math.floor((length - made) / 2 + (length / 3 * 3 - length)),
        lambda length, made: (length - made) // 2 + (length // 4 - length // 4),
        lambda length, made: (length * length - made * length) // (2 * length),
    ],
)
def test_padding_that_may_depend_on_the_size(amount: Any) -> None:
    """Not known to be the same: the branches stay, each with its norm folded."""
    deploy, _ = convert(PaddedRep(amount), *SIGNALS)
    assert counts(deploy) == (2, 1)


class MaskedProjection(nn.Module):
    """A norm, rearranged axes and a linear layer in a forward that takes a mask or does without (as in fairseq)."""

    def __init__(self, other: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.proj, self.other = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 5), other

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm(F.gelu(self.conv(x)))
        if mask is None or not self.other:
            x = self.proj(x.transpose(1, 2))
        else:
            x = self.proj(F.relu(x.transpose(1, 2)))
        return x if mask is None else x.masked_fill(mask.unsqueeze(-1), 0)


def test_rearranged_axes_in_a_forward_with_ways() -> None:
    model = MaskedProjection()
    deploy = convert(model, *SIGNALS)[0]
    assert counts(deploy) == (2, 0)
    x, mask = inputs((2, 4, 9)), torch.rand(2, 7) > 0.5
    assert torch.allclose(deploy(x, mask), model.double()(x, mask), rtol=1e-9)


def test_rearranged_axes_that_only_one_way_has() -> None:
    assert counts(convert(MaskedProjection(other=True), *SIGNALS)[0]) == (2, 1)


class Sliced(nn.Module):
    """Calls slices of a sequence and goes through slices of a list (as feature extractors do)."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.seq = nn.Sequential(*conv_bn(4, 4, 3), nn.ReLU(), *conv_bn(4, 4, 3), nn.Tanh())
        self.layers = nn.ModuleList([*conv_bn(4, 4, 3), nn.ReLU()])
        self.between = between

    def forward(self, x: Tensor) -> Any:
        x = self.seq[3:-1](self.seq[:3](x))
        for layer in self.layers[:1]:
            x = layer(self.seq[-1](x))
        x = self.between(x)
        for layer in self.layers[1:]:
            x = layer(x)
        return x


@pytest.mark.parametrize(("between", "norms"), [(nn.Identity(), 0), (nn.Tanh(), 1)])
def test_slices_of_sequences_and_lists(between: nn.Module, norms: int) -> None:
    deploy, report = convert(Sliced(between), (1, 4, 12, 11))
    assert counts(deploy) == (3, norms)
    assert not report.untraceable


class Accumulated(nn.Module):
    """Branches added to zeros one by one."""

    def __init__(self, step: Any = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Sequential(*conv_bn(4, 4, 3, padding=1)), nn.Sequential(*conv_bn(4, 4, 1)), nn.BatchNorm2d(4)]
        )
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for branch in self.branches:
            total += branch(x)
            if self.step is not None:
                self.step(total)
        return F.relu(total)


def test_sums_that_start_with_zeros() -> None:
    assert counts(convert(Accumulated())[0]) == (1, 0)
    assert counts(convert(Accumulated(lambda total: total.clamp_(max=1)))[0])[1] == 1


class Indirect(nn.Module):
    """Calls a method of its own through an attribute."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Sequential(*conv_bn(4, 4, 3, padding=1)), nn.Sequential(*conv_bn(4, 4, 1))
        self.mix: Any = {
            "partial": functools.partial(self._mixed, gain=0.25),
            "method": self._half,
            "table": {"half": self._half},
        }[how]

    def _mixed(self, x: Tensor, gain: float) -> Any:
        return self.wide(x) * gain + self.narrow(x) * (1 - gain)

    def _half(self, x: Tensor) -> Any:
        return self._mixed(x, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.mix["half"](x) if isinstance(self.mix, dict) else self.mix(x))


@pytest.mark.parametrize("how", ["partial", "method", "table"])
def test_methods_that_are_called_through_an_attribute(how: str) -> None:
    assert counts(convert(Indirect(how))[0]) == (1, 0)


class Held(nn.Module):
    """Registers its branches one by one, and goes through a list of them."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        branches = [nn.Sequential(*conv_bn(4, 4, 3, padding=1)), nn.Sequential(*conv_bn(4, 4, 1)), nn.BatchNorm2d(4)]
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.branches = kind(branches)

    def forward(self, x: Tensor) -> Tensor:
        held = self.branches.values() if isinstance(self.branches, dict) else self.branches
        return F.relu(sum(part[1](x) if isinstance(part, tuple) else part(x) for part in held))


@pytest.mark.parametrize(
    "kind", [list, tuple, lambda b: list(enumerate(b)), lambda b: dict(enumerate(b)), lambda b: (b[0], *b[1:])]
)
def test_modules_in_containers(kind: Any) -> None:
    assert counts(convert(Held(kind))[0]) == (1, 0)


class MadeTensor(nn.Module):
    """MONAI turns its own kind of tensor into torch's so."""

    def __init__(self, converting: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.converting = converting

    def forward(self, x: Any) -> Tensor:
        x = self.converting(x)
        return self.norm(self.converting(self.conv(x))) + self.other(x)[..., 1:-1, 1:-1]


@pytest.mark.parametrize("converting", [torch.as_tensor, torch.asarray])
def test_tensors_that_are_made_tensors(converting: Any) -> None:
    model = MadeTensor(converting)
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
    lists = inputs((1, 4, 5, 5), dtype=torch.float32).tolist()
    with torch.no_grad():
        assert gap(model.float()(lists), converted.float()(lists)) < 1e-5


def test_tensors_that_are_made_other_tensors() -> None:
    """A dtype that is asked for is a conversion, and stays."""
    converted, _ = convert(MadeTensor(lambda x: torch.as_tensor(x, dtype=torch.float64)))
    assert counts(converted) == (2, 1)


class Statements(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        branches = (conv_bn(4, 4, 3, padding=1), conv_bn(4, 4, 1), conv_bn(4, 4, 5, padding=2))
        self.branches = nn.ModuleList([nn.Sequential(*pair) for pair in branches])


class Added(Statements):
    def forward(self, x: Tensor) -> Tensor:
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out.add_(branch(x))
        out.relu_()
        return out


class ReadBetween(Statements):
    """What is read before the last branch is added keeps all of them apart."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches[0](x)
        out.add_(self.branches[1](x))
        before = out.sigmoid()
        out.add_(self.branches[2](x))
        return out * before


class OfTheInput(Statements):
    """The caller's tensor is written into."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x)
        x.mul_(2.0)
        return (y + self.branches[1](x)).relu()


@pytest.mark.parametrize(("kind", "convs"), [(Added, 1), (ReadBetween, 3), (OfTheInput, 3)])
def test_operations_in_place_that_are_statements(kind: Any, convs: int) -> None:
    model = kind()
    converted, _ = convert(model)
    assert counts(converted) == (convs, 0)
    x = inputs((1, 4, 6, 6))
    with torch.no_grad():
        given, wanted = x.clone(), x.clone()
        assert gap(model(wanted), converted(given)) < 1e-12
    assert torch.equal(given, wanted)
