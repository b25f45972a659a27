"""Modules that cannot be traced and are measured instead: what is found, what is refused and with which figure."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.loading import default_registry
from reparamkit.probe import probe
from reparamkit.probe.blackbox import Unmeasurable
from reparamkit.probe.measure import Work, measure
from reparamkit.rules.probe import Measured
from reparamkit.survey import survey
from tests.helpers import Fn, assert_same, codes, conv_bn, convert, counts, inputs, merged_rules, randomize

RULE = "core/probe"


def finite(x: Tensor) -> Tensor:
    """`x`, in a way that no tracer follows."""
    assert np.isfinite(x.detach().numpy()).all()
    return x


class Hidden(nn.Module):
    """Any module, behind a question about its numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(finite(x))


class Hides(nn.Module):
    """As `Hidden`, with a function of the module and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **children: Any) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, finite(x))


def measured(module: nn.Module) -> Measured:
    """What `module` is measured to be; its refusal is a failure."""
    model = nn.Sequential(module.double().eval())
    found = survey(model, default_registry())
    refused = probe(found, lambda path: path == "0")
    assert not refused, refused
    made: Any = found.traced[id(module)]
    return next(n.args[1] for n in made.graph.nodes if n.op == "call_function")  # type: ignore[no-any-return]


def refusal(module: nn.Module, recipe: str = "probe", **options: Any) -> Any:
    """Why nothing is made of `module` between two convolutions that need nothing themselves."""
    model = nn.Sequential(Fn(lambda m, x: m.inner(x), inner=module)).double().eval()
    before = copy.deepcopy(model.state_dict())
    _, report = reparamkit.apply(model, recipe, return_report=True, **options)
    assert RULE not in merged_rules(report)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return next(r for r in report.refused if r.where == "0.inner")


GEOMETRIES: list[tuple[int, dict[str, Any]]] = [
    (1, {"kernel_size": 5, "padding": 2}),
    (1, {"kernel_size": 4, "stride": 3}),
    (2, {"kernel_size": 3, "padding": 1, "groups": 2}),
    (2, {"kernel_size": 3, "padding": 1, "groups": 4}),
    (2, {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1)}),
    (2, {"kernel_size": (3, 2), "stride": 2, "padding": 1, "bias": False}),
    (2, {"kernel_size": 3, "padding": 6, "dilation": (2, 3)}),
    (2, {"kernel_size": 1, "stride": 2}),
    (2, {"kernel_size": 4, "stride": 4}),
    (2, {"kernel_size": 17, "padding": 8, "groups": 4}),
    (2, {"kernel_size": 15}),
    (3, {"kernel_size": 2, "stride": (1, 2, 1), "padding": 1}),
]


@pytest.mark.parametrize(("nd", "options"), GEOMETRIES)
def test_reads_every_geometry(nd: int, options: dict[str, Any]) -> None:
    conv: Any = randomize(getattr(nn, f"Conv{nd}d")(4, 8, **options), 3).double()
    op = measured(Hidden(conv)).op
    assert torch.allclose(op.weight.dense(), conv.weight, rtol=0, atol=1e-12)
    assert op.stride == conv.stride
    assert op.groups == conv.groups
    assert (op.bias is None) == (conv.bias is None)
    assert op.padding == tuple((p, p) for p in conv.padding)
    assert all(d == e for d, e, k in zip(op.dilation, conv.dilation, conv.kernel_size, strict=True) if k > 1)


@pytest.mark.parametrize("pads", [(0, 1, 1, 0), (2, 0, 0, 2), (-1, 0, 0, -2), (1, 3, -1, 0)])
def test_reads_uneven_padding_and_cropping(pads: tuple[int, ...]) -> None:
    conv = randomize(nn.Conv2d(3, 5, 3, stride=2)).double()
    op = measured(Hides(lambda m, x: m.conv(F.pad(x, pads)), conv=conv)).op
    assert op.padding == (pads[2:], pads[:2])
    x = inputs((2, 3, 11, 12))
    assert torch.allclose(op.apply(x), conv(F.pad(x, pads)), atol=1e-12)


def test_reads_a_linear_layer() -> None:
    linear = randomize(nn.Linear(5, 7)).double()
    op = measured(Hidden(linear)).op
    assert op.nd == 0
    assert torch.allclose(op.weight.dense(), linear.weight, atol=1e-13)


class Written(nn.Module):
    """Rows written one by one, as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(4, 6, 3, padding=1), nn.Parameter(torch.rand(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for row in range(x.shape[2]):
            y[:, :, row] = x[:, :, row] * self.gain
        return self.conv(y)  # type: ignore[no-any-return]


class Numeric(nn.Module):
    """A pointwise convolution in NumPy, its kernel no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = np.random.default_rng(0).standard_normal((6, 4))
        self.bias = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.from_numpy(np.einsum("oi,nihw->nohw", self.kernel, x.detach().numpy()))
        return y.to(x) + self.bias[:, None, None]


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy()) * weight.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError


class Custom(nn.Module):
    """A custom function of autograd behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(4, 6, 3, padding=1), nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Any:
        return _Double.apply(self.conv(x), self.weight)


class DiverseBranches(nn.Module):
    """As in DBB: a pointwise convolution whose border is padded with its bias, written into a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Sequential(*conv_bn(4, 4, 1)), nn.BatchNorm2d(4)
        self.second, self.dense = nn.Sequential(*conv_bn(4, 6, 3)), nn.Sequential(*conv_bn(4, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(finite(x)))
        edge = self.norm(self.first(torch.zeros_like(x[:1, :, :1, :1])))[0, :, 0, 0]
        wide = y.new_empty(y.shape[0], y.shape[1], y.shape[2] + 2, y.shape[3] + 2)
        wide[:] = edge.view(1, -1, 1, 1)
        wide[:, :, 1:-1, 1:-1] = y
        return self.second(wide) + self.dense(x)  # type: ignore[no-any-return]


BLOCKS: list[Callable[[], nn.Module]] = [
    Written,
    Numeric,
    Custom,
    DiverseBranches,
    lambda: Hides(lambda m, x: m.drop(m.conv(x)), conv=nn.Conv2d(4, 6, 3, padding=1), drop=nn.Dropout()),
    lambda: Hides(lambda m, x: m.conv(x) if x.sum().item() < 1e300 else x, conv=nn.Conv2d(4, 6, 3, padding=1)),
]


@pytest.mark.parametrize("make", BLOCKS)
def test_becomes_one_convolution_with_its_neighbours(make: Callable[[], nn.Module]) -> None:
    model = Fn(lambda m, x: F.relu(m.norm(m.block(x)) + m.point(x)), block=make(), norm=nn.BatchNorm2d(6), point=None)
    model.point = nn.Conv2d(4, 6, 1)
    deploy, report = convert(model, recipe="probe")
    assert counts(deploy) == (1, 0)
    assert RULE in merged_rules(report)
    assert counts(convert(model)[0])[1] >= 1, "without the recipe it stays"


@pytest.mark.parametrize("make", BLOCKS)
def test_alone_it_keeps_its_class(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(make(), nn.ReLU(), nn.Conv2d(6, 4, 1))
    deploy, report = convert(model, recipe="probe")
    assert type(deploy[0]).__name__ == type(model[0]).__name__
    assert isinstance(deploy[0], type(model[0]))
    assert counts(deploy[0]) == (1, 0)
    assert [name for name, _ in deploy[0].named_children()] == ["reparam"]
    assert "by measurement only" in str(report)
    assert reparamkit.apply(deploy, "probe", return_report=True)[1].merged == ()
    with pytest.raises(RuntimeError, match="RK103"):
        deploy.train()(inputs((1, 4, 7, 7)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_are_exchanged() -> None:
    block = randomize(nn.Sequential(*conv_bn(4, 6, 3, padding=1))).double().eval()
    model = randomize(nn.Sequential(nn.Identity(), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))).double()
    model[0] = torch.jit.script(block)
    for example in (None, inputs((1, 4, 8, 8))):
        deploy, report = reparamkit.apply(model, "probe", return_report=True, example_inputs=example)
        assert counts(deploy) == (2, 0)
        assert not any(isinstance(m, torch.jit.ScriptModule) for m in deploy.modules())
        assert_same(model, deploy)
        assert "measured Sequential" in report.merged[0].before


class Twice(nn.Module):
    """One measured block, called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = Hidden(nn.Sequential(*conv_bn(4, 4, 3, padding=1))), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.block(F.relu(self.block(x))))


def test_shared_blocks_stay_shared_and_the_root_may_be_one() -> None:
    deploy, _ = convert(Twice(), recipe="probe")
    assert counts(deploy) == (1, 1)
    root, _ = convert(Hidden(nn.Sequential(*conv_bn(4, 4, 3, padding=1))), recipe="probe")
    assert isinstance(root, Hidden)
    assert counts(root) == (1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_takes_over_dtype_and_gradients(dtype: torch.dtype) -> None:
    model = nn.Sequential(Hidden(randomize(_conv())), nn.BatchNorm2d(4)).to(dtype).eval()
    model[0].requires_grad_(False)
    made: Any = reparamkit.apply(model, "probe")
    conv = next(m for m in made.modules() if isinstance(m, nn.Conv2d))
    assert conv.weight.dtype == dtype
    assert conv.weight.requires_grad == any(p.requires_grad for p in model.parameters())


def test_inside_a_parent_that_cannot_be_traced_either() -> None:
    """Parent: two outputs. Child: measured, whatever the parent does with it."""
    parent = Hides(lambda m, x: (m.block(x), x.sum().item()), block=Written())
    deploy, _ = convert(Fn(lambda m, x: m.parent(x)[0], parent=parent), recipe="probe")
    assert isinstance(deploy.parent.block, Written)
    assert counts(deploy.parent.block) == (1, 0)


def test_what_is_inside_is_converted_when_the_whole_is_refused() -> None:
    block = Hidden(nn.Sequential(*conv_bn(4, 6, 3, padding=1), nn.ReLU()))
    deploy, report = convert(nn.Sequential(block), recipe="probe")
    assert counts(deploy) == (1, 0)
    assert codes(report) == {"RK604", "RK610"}


def test_policy_decides_about_what_was_measured() -> None:
    """A depthwise and a pointwise convolution are cheaper than the dense one they are together."""
    pair = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 6, 1))
    cheaper = convert(nn.Sequential(Hidden(pair)), recipe="probe")
    assert counts(cheaper[0]) == (2, 0)
    assert "MACs per position 60 -> 216" in str(cheaper[1])
    assert counts(convert(nn.Sequential(Hidden(pair)), recipe="probe", policy="always")[0]) == (1, 0)


class Counting(nn.Module):
    """Remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(4, 4, 1), [0]

    def forward(self, x: Tensor) -> Any:
        self.calls[0] += 1
        return self.conv(finite(x))


class Running(nn.Module):
    """Keeps a running mean even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        y = self.conv(finite(x))
        self.mean.lerp_(y.mean((0, 2, 3)), 0.1)
        return y


def _conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, **options)


def _position(m: Any, x: Tensor) -> Tensor:
    return m.conv(x * torch.arange(x.shape[3], dtype=x.dtype))  # type: ignore[no-any-return]


def _threshold(m: Any, x: Tensor) -> Tensor:
    return m.conv(x) if x.abs().max().item() < 500 else m.conv(x.clamp(-500, 500))  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "relu": (lambda: Hidden(nn.Sequential(_conv(), nn.ReLU())), "RK610", "-1 times an input"),
    "layer norm": (lambda: Hidden(nn.Sequential(_conv(), nn.GroupNorm(2, 4))), "RK610", "times an input"),
    "clipped": (lambda: Hides(_threshold, conv=_conv()), "RK610", "1000 times an input"),
    "small numbers": (
        lambda: Hides(lambda m, x: m.conv(x) if x.abs().max().item() > 1e-4 else m.conv(0 * x), conv=_conv()),
        "RK610",
        "magnitude 1e-06",
    ),
    "sign": (
        lambda: Hides(lambda m, x: m.conv(x) if x.min().item() <= 0 else m.conv(0 * x), conv=_conv()),
        "RK610",
        "of one sign",
    ),
    "size": (
        lambda: Hides(lambda m, x: m.conv(x) * (1 if x.shape[3] < 24 else 2), conv=_conv()),
        "RK610",
        "an input of 1x4x29x30",
    ),
    "batch": (
        lambda: Hides(lambda m, x: m.conv(x) + (x.mean(0, keepdim=True) if len(x) > 2 else x), conv=_conv()),
        "RK610",
        "an input of",
    ),
    "reflect": (lambda: Hidden(_conv(padding_mode="reflect")), "RK610", "from what an operator would give"),
    "position": (lambda: Hides(_position, conv=_conv()), "RK610", ""),
    "border": (lambda: Hidden(nn.Sequential(nn.Conv2d(4, 4, 1), _conv())), "RK316", "response to zeros differs by"),
    "global": (lambda: Hides(lambda m, x: m.conv(x) + x.mean((2, 3), True), conv=_conv()), "RK610", "reaches all"),
    "upsampling": (lambda: Hidden(nn.ConvTranspose2d(4, 4, 2, stride=2)), "RK610", "gives +2 of the result"),
    "pooled away": (lambda: Hidden(nn.Sequential(_conv(), nn.AdaptiveAvgPool2d(1))), "RK610", "its result has 1x1"),
    "state": (Running, "RK612", "changes its mean"),
    "attribute": (Counting, "RK612", "changes its calls"),
    "torch noise": (lambda: Hides(lambda m, x: m.conv(x) + torch.randn(()), conv=_conv()), "RK612", "two calls"),
    "numpy noise": (lambda: Hides(lambda m, x: m.conv(x) + np.random.rand(), conv=_conv()), "RK612", "two calls"),
    "python noise": (lambda: Hides(lambda m, x: m.conv(x) + random.random(), conv=_conv()), "RK612", "two calls"),
    "input": (lambda: Hides(lambda m, x: m.conv(x.mul_(2)), conv=_conv()), "RK612", "changes its input"),
    "view": (lambda: Hides(lambda m, x: x[:, :2], conv=_conv()), "RK612", "a view of it"),
    "float32": (lambda: Hides(lambda m, x: m.conv(x).float(), conv=_conv()), "RK612", "returns torch.float32"),
    "single precision": (lambda: Hides(lambda m, x: m.conv(x).float().double(), conv=_conv()), "RK610", "e-0"),
    "two results": (lambda: Hides(lambda m, x: (m.conv(x), x), conv=_conv()), "RK612", "returns tuple"),
    "raises": (lambda: Hides(lambda m, x: m.conv(x, x), conv=_conv()), "RK612", "TypeError"),
    "no layers": (lambda: Hides(lambda m, x: 2 * x), "RK612", "pass example_inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    make, code, text = REFUSED[case]
    found = refusal(randomize(make()))
    assert (found.code, text in found.reason) == (code, True), found


def test_refuses_hooks_inside_but_not_its_own() -> None:
    inside = Hidden(_conv())
    inside.inner.register_forward_hook(lambda *_: None)
    assert refusal(inside).code == "RK306"
    outside = Hidden(nn.Sequential(*conv_bn(4, 4, 3)))
    seen: list[int] = []
    outside.register_forward_hook(lambda *_: seen.append(1))
    deploy = reparamkit.apply(nn.Sequential(randomize(outside)).double().eval(), "probe")
    assert not seen
    assert counts(deploy) == (1, 0)
    deploy(inputs((1, 4, 8, 8)))
    assert seen == [1]


def test_refuses_more_arguments_than_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = _conv()

        def forward(self, x: Tensor, scale: float = 1.0) -> Any:
            return self.conv(finite(x)) * scale

    assert "it takes (x: 'Tensor', scale: 'float' = 1.0)" in refusal(Two()).reason


def test_refuses_what_another_forward_reads() -> None:
    model = Hides(lambda m, x: m.block(x), block=Written())

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Written()

        def forward(self, x: Tensor) -> Any:
            return self.block(finite(x)), self.block.conv.weight.sum()

    _, report = reparamkit.apply(Reads().double().eval(), "probe", return_report=True)
    assert [r.code for r in report.refused if r.where == "block"] == ["RK301"]
    assert RULE in merged_rules(reparamkit.apply(model.double().eval(), "probe", return_report=True)[1])


def test_work_is_declared_and_limited() -> None:
    """The figures are in the refusal; a look at the module is all that was done."""
    module = Hidden(_conv()).double().eval()
    with pytest.raises(Unmeasurable) as looked:
        measure(module, None, Work(each=1e5))
    assert looked.value.refusal.code == "RK611"
    assert "it would take 32 calls, 7.79e+05 multiply-accumulates; 1e+05 are allowed" in looked.value.refusal.reason
    with pytest.raises(Unmeasurable, match=r"it would take 4 calls, .* are allowed"):
        measure(module, None, Work(left=8e5))
    work = Work()
    measure(module, None, work)
    assert work.left < 1e12


def test_example_inputs_say_how_many_axes_there_are() -> None:
    gain = Hides(lambda m, x: m.gain * x, gain=nn.Parameter(torch.rand(4, 1, 1)))
    assert refusal(gain).code in ("RK203", "RK612")
    deploy, _ = convert(nn.Sequential(gain, nn.Conv2d(4, 6, 3)), recipe="probe", example_inputs=inputs((1, 4, 8, 8)))
    assert counts(deploy) == (1, 0)


def test_random_states_are_left_alone() -> None:
    model = nn.Sequential(Hides(lambda m, x: m.conv(x) + random.random() + np.random.rand(), conv=_conv())).double()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index,union-attr]
    reparamkit.apply(model.eval(), "probe")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index,union-attr]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
