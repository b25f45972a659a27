"""What the original modules compute, in float64, from their own attributes: the other side of each proof.

It shares nothing with the rules: no operator, no merge. Convolutions are unfolded and multiplied band by band, so
that no float64 copy of a large kernel is made (and because torch has no fast float64 convolution on CPUs).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from reparamkit.flow import mapped
from reparamkit.lift.constant import stored
from reparamkit.lift.facts import is_shape

if TYPE_CHECKING:
    from reparamkit.flow import Flow, Frame, Share, Value

_BAND = 1 << 19  # numbers of a kernel that are in float64 at one time


# What convolutions read of an input, as long as the input is there: branches of one shape read the same.
_READ = WeakTensorKeyDictionary()
_SMALL = 1 << 18  # numbers; the patches of a large kernel are worth their memory only while they are read


def _read_once(x: Tensor, key: tuple[Any, ...], read: Callable[[], Any]) -> Any:
    """`read()`, or what it gave for this `x` and `key` before; once `x` has been written to, anew."""
    if x.is_inference():  # it does not tell when it is written to
        return read()
    known: dict[tuple[Any, ...], Any] = _READ.setdefault(x, {})
    key = (*key, x._version)
    if key in known:
        return known[key]
    made = read()
    view = made[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    if made[0].numel() <= _SMALL and not view:  # a view would keep `x` and itself in memory for ever
        known[key] = made
    return made


class Geometry(NamedTuple):
    """What the forward of a convolution takes besides its numbers; attributes may have changed since it was built.

    Attributes:
        kernel: size of the kernel that there is.
        stride: of each axis.
        dilation: of each axis.
        groups: of channels.
        pads: as `F.pad` takes them.
        mode: of padding, likewise.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    pads: tuple[int, ...]
    mode: str


def _geometry(module: Any) -> Geometry:
    kernel = tuple(module.weight.shape[2:])
    stride, dilation = (_each(value, len(kernel)) for value in (module.stride, module.dilation))
    if module.padding_mode != "zeros":
        pads, mode = tuple(module._reversed_padding_repeated_twice), module.padding_mode
        return Geometry(kernel, stride, dilation, module.groups, pads, mode)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        ends = [(t // 2, t - t // 2) for t in totals]
    else:
        ends = [(p, p) for p in _each(0 if module.padding == "valid" else module.padding, len(kernel))]
    pads = tuple(p for pair in reversed(ends) for p in pair)
    return Geometry(kernel, stride, dilation, module.groups, pads, "constant")


def _each(value: Any, nd: int) -> tuple[int, ...]:
    return (value,) * nd if isinstance(value, int) else (*value,) * (nd // len(value))


def unfolded(x: Tensor, g: Geometry) -> tuple[Tensor, tuple[int, ...]]:
    """Patches of `x` as ``[N, groups, positions, in_channels / groups * taps]``, and the size of the result."""
    x = (F.pad(x, g.pads, mode=g.mode) if any(g.pads) else x).contiguous()
    out = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], g.kernel, g.stride, g.dilation, strict=True)
    )
    n, c = x.shape[:2]
    batch, channel, *axes = x.stride()
    view = x.as_strided(
        (n, g.groups, *out, c // g.groups, *g.kernel),
        (
            batch,
            channel * (c // g.groups),
            *(st * s for st, s in zip(axes, g.stride, strict=True)),
            channel,
            *(st * d for st, d in zip(axes, g.dilation, strict=True)),
        ),
    )
    return view.reshape(n, g.groups, prod(out), c // g.groups * prod(g.kernel)), out


class ConvRun:
    """A convolution module on one input, computed band by band of output channels.

    Attributes:
        shape: of the result.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.module = module
        self.groups = module.groups
        self.x = x
        geometry = _geometry(module)
        self.patches, self.size = _read_once(x, geometry, lambda: unfolded(x, geometry))
        self.shift = 1.0
        self.shape = (len(x), len(module.weight), *self.size)
        self.out = x.new_empty(len(x), prod(self.size), len(module.weight))

    def sum_up(self, mix: Tensor) -> None:
        """Compute only the sum over samples and positions, weighted by `mix`, for the price of one position.

        As a check of every number of the kernel it is as good as the whole result (Freivalds' check of products).
        """
        patches, key = self.patches, (*_geometry(self.module), id(mix))
        mixed = mix.reshape(len(patches), 1, 1, -1)
        self.patches, _ = _read_once(self.x, key, lambda: ((mixed @ patches).sum(0, keepdim=True), mix))
        self.shift, self.size = float(mix.sum()), (1,) * len(self.size)
        self.out = self.out[:1, :1]

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        """Compute output channels `lo` to `hi` with these `rows` of the kernel, float64."""
        per_group = len(self.module.weight) // self.groups
        flat = rows.reshape(hi - lo, -1)
        if lo % per_group == 0 and hi % per_group == 0 and self.groups > 1:
            first, last = lo // per_group, hi // per_group
            weight = flat.reshape(last - first, per_group, -1)
            made = self.patches[:, first:last] @ weight.transpose(1, 2)  # [N, groups, positions, out / groups]
            self.out[:, :, lo:hi] = made.transpose(1, 2).flatten(2)
            return
        row = lo
        while row < hi:
            group = row // per_group
            end = min(hi, (group + 1) * per_group)
            self.out[:, :, row:end] = self.patches[:, group] @ flat[row - lo : end - lo].T
            row = end

    def result(self, bias: Tensor | None) -> Tensor:
        """The output, `bias` added; once summed up it has one sample and one position."""
        if bias is not None:
            self.out += self.shift * bias.to(torch.float64)
        n, _, channels = self.out.shape
        return self.out.transpose(1, 2).reshape(n, channels, *self.size)


class LinearRun:
    """A linear module on one input, computed band by band.

    Attributes:
        shape: of the result.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.x = x
        self.shift = 1.0
        self.shape = (*x.shape[:-1], len(module.weight))
        self.out = x.new_empty(self.shape)

    def sum_up(self, mix: Tensor) -> None:
        """Compute only the sum over positions, weighted by `mix`; as `ConvRun.sum_up`."""
        ones = [1] * (self.x.ndim - 1)
        self.x = (mix.reshape(1, -1) @ self.x.reshape(-1, self.x.shape[-1])).reshape(*ones, -1)
        self.shift = float(mix.sum())
        self.out = self.out.new_empty(*ones, self.out.shape[-1])

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        """Compute output features `lo` to `hi`."""
        self.out[..., lo:hi] = self.x @ rows.reshape(hi - lo, -1).T

    def result(self, bias: Tensor | None) -> Tensor:
        """The output, `bias` added."""
        return self.out if bias is None else self.out + self.shift * bias.to(torch.float64)


def summed_up(value: Tensor, mix: Tensor, channel: int) -> Tensor:
    """The sum of `value` over all axes but `channel`, weighted by `mix`; those axes stay, of size 1."""
    lead = value.movedim(channel, 0)
    made = lead.reshape(len(lead), -1) @ mix.reshape(-1)
    return made.reshape(len(lead), *[1] * (value.ndim - 1)).movedim(0, channel)


def bands_of(weight: Tensor) -> list[tuple[int, int]]:
    """Bounds of row bands of a kernel."""
    step = max(1, _BAND // max(1, weight[0].numel()))
    return [(lo, min(lo + step, len(weight))) for lo in range(0, len(weight), step)]


def run_module(module: nn.Module, x: Tensor) -> Tensor:
    """What `module` computes for `x`, in float64; the module is not touched."""
    for kinds, run in _RUNS:
        if isinstance(module, kinds) and _plain(module, kinds):
            return run(module, x)
    return _call(copy.deepcopy(module).double().eval(), x)


def _plain(module: nn.Module, kinds: tuple[type[Any], ...]) -> bool:
    return any(type(module).forward is kind.forward for kind in kinds)


def _call(module: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = module(x)
    return result


def _run_conv(module: Any, x: Tensor) -> Tensor:
    weight = module.weight.detach()
    run = ConvRun(module, x)
    for lo, hi in bands_of(weight):
        run.band(lo, hi, weight[lo:hi].double())
    return run.result(None if module.bias is None else module.bias.detach())


def _run_linear(module: Any, x: Tensor) -> Tensor:
    weight = module.weight.detach()
    run = LinearRun(module, x)
    for lo, hi in bands_of(weight):
        run.band(lo, hi, weight[lo:hi].double())
    return run.result(None if module.bias is None else module.bias.detach())


def _run_norm(module: Any, x: Tensor) -> Tensor:
    mean, var = module.running_mean.double(), module.running_var.double()
    weight, bias = (None if t is None else t.detach().double() for t in (module.weight, module.bias))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=module.eps)


def _run_nothing(module: Any, x: Tensor) -> Tensor:
    return x


_RUNS: tuple[tuple[tuple[type[Any], ...], Callable[[Any, Tensor], Tensor]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _run_conv),
    ((nn.Linear,), _run_linear),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _run_nothing),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _run_norm),
)
# nn.BatchNormNd all share one forward.

_INPLACE = {getattr(operator, f"i{n}"): getattr(operator, n) for n in ("add", "sub", "mul", "truediv")}


def run_value(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    """What the node of `value` computes from the `known` values, in float64."""
    if value.gone:
        return known[value.inputs[0]]
    if value.share is not None and value.share.size is not None:
        return _run_share(value.share, flow, known[value.inputs[0]])
    return _run_whole(value, flow, known)


def remember(known: dict[Value, Tensor], value: Value, result: Tensor) -> None:
    """Note the result of `value`, also for nodes that read the one of which it is a copy."""
    known[value] = result
    if value.share is not None and value.share.size is None:
        known[value.share.of] = result


def _run_share(share: Share, flow: Flow, x: Tensor) -> Tensor:
    """What the whole norm makes of these channels, with or without what it adds."""
    made = _run_with_zeros(share, flow, x)
    return made - _run_with_zeros(share, flow, torch.zeros_like(x)) if share.linear else made


def _run_with_zeros(share: Share, flow: Flow, x: Tensor) -> Tensor:
    """What the whole norm makes of these channels; the others are zeros."""
    shape = list(x.shape)
    shape[share.axis] = share.total
    whole = x.new_zeros(shape)
    whole.narrow(share.axis, share.start, x.shape[share.axis]).copy_(x)
    known = {share.of.inputs[0]: whole}
    nested = share.of.share
    made = _run_whole(share.of, flow, known) if nested is None else _run_share(nested, flow, whole)
    return made.narrow(share.axis, share.start, x.shape[share.axis])


def _run_whole(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    if value.tail is not None:
        affine: Tensor = value.tail.affine(known[value.inputs[0]])
        return affine
    if value.module is not None:
        return run_module(value.module, known[value.inputs[0]])
    result = _run_node(value, flow, known)
    assert isinstance(result, Tensor)
    return result


def _run_node(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Any:
    frame = flow.frames[value.path]
    args, kwargs = mapped((value.node.args, value.node.kwargs), lambda n: _read(n, frame, flow, known))
    target: Any = value.node.target
    if value.mutates and args:
        args = (args[0].clone(), *args[1:])
    if value.node.op == "call_method":
        return getattr(args[0], str(target))(*args[1:], **kwargs)
    return _INPLACE.get(target, target)(*args, **kwargs)


def _read(node: fx.Node, frame: Frame, flow: Flow, known: dict[Value, Tensor]) -> Any:
    value = frame.values.get(node)
    if value is not None and value in known:
        return known[value]
    constant = stored(node, frame)
    if constant is None:
        value = frame.values[node]
        if value.meta and value not in known:
            return _run_node(value, flow, _with_others(value, known))
        return _known(value, flow, known)
    return constant.detach().double() if constant.is_floating_point() else constant


def _with_others(asking: Value, known: dict[Value, Tensor]) -> dict[Value, Tensor]:
    """For a size of something outside of the region, which is taken to be as large as what the region reads."""
    source = next(iter(known.values()))
    others = [v for v in asking.inputs if not v.meta and v not in known and v.rank in (None, source.ndim)]
    asks = asking.node.target == "size" or is_shape(asking.node)
    return {**known, **dict.fromkeys(others, source)} if asks else known


def _known(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    """A stack is made here: only its sum is a value of the region."""
    if value not in known and value.stacked is not None:
        known[value] = _run_node(value, flow, known)
    return known[value]
