"""place: a branch beside a layer, every number settled; or a `Refusal` that says why it has no place there.

A branch must do what a kernel inside the layer's own can do, on the same positions:

* Its taps, end to end, span no more than the layer's; what is left over is split to both sides, so the branch stands
  in the middle (on the layer's grid, where that is dilated). ``padding_branch = padding_layer - offset``.
* Its stride is that of the last operation with taps, or of the last convolution; without one it has no place beside
  a layer with a stride (an identity across a stride, RepVGG §3.3).
* Its last mixing operation gives the layer's channels; without one the layer must have as many out as in.
* Its groups are a multiple of the layer's, or the sum would need a denser kernel.
* Padding stands in front of its first operation with taps; nothing behind that is padded. Where an operation in front
  makes something else of zero, the border is that (Diverse Branch Block, CVPR 2021, §3.3; ECB): exact by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reparamkit.branch import Place
from reparamkit.errors import Refusal
from reparamkit.expand.layer import Layer, Pads
from reparamkit.expand.names import numbered
from reparamkit.expand.ops.nest import PAD, SUM
from reparamkit.expand.placed import Border, Branch, Placed, PlacedStep, Step
from reparamkit.rules.conv import each


@dataclass(frozen=True)
class Legal:
    """The branches that have a place, and why the others have none.

    Attributes:
        branches: in order.
        left_out: a refusal for each of the others.
    """

    branches: tuple[Placed, ...]
    left_out: tuple[Refusal, ...] = ()


def place_all(branches: Sequence[Branch], layer: Layer) -> Legal:
    """Every branch that has a place beside `layer`; the others are left out, as the papers do."""
    placed, refused = [], []
    for branch in branches:
        found = place(branch, layer)
        if isinstance(found, Refusal):
            refused.append(found)
        else:
            placed.append(found)
    return Legal(_named(placed), tuple(refused))


def place(branch: Branch, layer: Layer) -> Placed | Refusal:
    """One branch beside `layer`."""
    kept = [s for s in branch.steps if s.op.name != PAD]
    steps = _geometry(kept, layer)
    if isinstance(steps, Refusal):
        return steps
    steps = _strided(steps, layer)
    if isinstance(steps, Refusal):
        return steps
    marks = [i - n for n, i in enumerate(i for i, s in enumerate(branch.steps) if s.op.name == PAD)]
    border = _border(steps, marks, layer)
    if isinstance(border, Refusal):
        return border
    padded, border = _on_its_step(steps, border)
    summed = [_summed(s, p, layer) for s, p in zip(kept, padded, strict=True)]
    refusal = next((s for s in summed if isinstance(s, Refusal)), None)
    if refusal is not None:
        return refusal
    made = tuple(s for s in summed if isinstance(s, PlacedStep))
    return Placed(branch.name, made, border, branch.train)


def _geometry(steps: Sequence[Step], layer: Layer) -> list[PlacedStep] | Refusal:
    """Taps, channels and groups of every step; no stride, no padding yet."""
    placed: list[PlacedStep] = []
    last = max((i for i, s in enumerate(steps) if s.op.mixes), default=-1)
    channels = layer.in_channels
    for index, step in enumerate(steps):
        found = _place_of(step, channels, layer, last=index == last)
        if isinstance(found, Refusal):
            return found
        placed.append(PlacedStep(step.op, step.options, found))
        channels = found.out_channels
    if channels != layer.out_channels:
        return Refusal("RK311", f"{_names(steps)} gives {channels} channels, the layer {layer.out_channels}")
    refusal = _fits(placed, layer)
    return placed if refusal is None else refusal


def _place_of(step: Step, channels: int, layer: Layer, *, last: bool) -> Place | Refusal:
    if layer.nd not in step.op.axes:
        return Refusal("RK310", f"{step.op.name} has no place beside a layer of {layer.nd} spatial axes")
    taps = _taps(step, layer)
    if isinstance(taps, Refusal):
        return taps
    kernel, dilation = taps
    outside = _channels(step, channels, layer, last) if step.op.mixes else channels
    groups = _groups(step, channels, layer)
    if step.op.mixes and (channels % groups or outside % groups or groups % layer.groups):
        return Refusal(
            "RK315",
            f"{step.op.name}: {groups} groups for {channels} -> {outside} channels beside {layer.groups} groups",
        )
    if getattr(step.options, "identity", False) and (channels != outside or any(k > 1 for k in kernel)):
        return Refusal("RK311", f"{step.op.name}: I + W for {channels} -> {outside} channels, kernel {kernel}")
    ones, zeros = (1,) * layer.nd, (0,) * layer.nd
    bias = bool(getattr(step.options, "bias", False))
    return Place(channels, outside, kernel, ones, zeros, dilation, groups, "zeros", bias)


def _taps(step: Step, layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]] | Refusal:
    wanted = getattr(step.options, "kernel_size", step.op.taps)
    entries = (wanted,) * layer.nd if isinstance(wanted, int | str) else tuple(wanted)
    if len(entries) != layer.nd:
        return Refusal("RK310", f"{step.op.name}: a kernel of {len(entries)} axes beside a layer of {layer.nd}")
    kernel = tuple(k if e == "k" else int(e) for e, k in zip(entries, layer.kernel_size, strict=True))
    spread = getattr(step.options, "dilation", None)
    if spread is None:  # a window or a fixed filter has no dilation
        return kernel, layer.dilation if step.op.name == SUM else (1,) * layer.nd
    factors = each(spread, layer.nd)
    if len(factors) != layer.nd:
        return Refusal("RK310", f"{step.op.name}: a dilation of {len(factors)} axes beside a layer of {layer.nd}")
    return kernel, tuple(d * f for d, f in zip(layer.dilation, factors, strict=True))


def _channels(step: Step, inside: int, layer: Layer, last: bool) -> int:
    wanted = getattr(step.options, "channels", None)
    if wanted is None and getattr(step.options, "identity", False):
        return inside
    if wanted is None:
        return layer.out_channels if last else layer.in_channels
    if isinstance(wanted, int):
        return wanted
    factor, _, of = wanted.rpartition("*")
    count = layer.in_channels if of == "in" else layer.out_channels
    return max(1, round(float(factor or 1) * count))


def _groups(step: Step, inside: int, layer: Layer) -> int:
    wanted = getattr(step.options, "groups", "layer")
    return inside if wanted == "in" else layer.groups if wanted == "layer" else int(wanted)


def _fits(steps: Sequence[PlacedStep], layer: Layer) -> Refusal | None:
    total = _span(steps, layer)
    if any(t > s for t, s in zip(total, layer.span, strict=True)):
        return Refusal(
            "RK317", f"{_names(steps)} spans {_size(total)} positions, the layer's kernel {_size(layer.span)}"
        )
    for step in steps:
        for axis, d in enumerate(layer.dilation):
            if step.place.kernel_size[axis] > 1 and layer.kernel_size[axis] > 1 and step.place.dilation[axis] % d:
                return Refusal("RK314", f"{step.op.name} has taps between those of the layer's dilation {d}")
    return None


def _span(steps: Sequence[PlacedStep], layer: Layer) -> tuple[int, ...]:
    return tuple(sum(s.place.span[axis] for s in steps) for axis in range(layer.nd))


def _size(span: Sequence[int]) -> str:
    return "x".join(str(s + 1) for s in span)


def _pads(steps: Sequence[PlacedStep], layer: Layer) -> Pads:
    """What is left of the layer's padding for a branch in the middle of its kernel."""
    pads = []
    for axis, spare in enumerate(s - t for s, t in zip(layer.span, _span(steps, layer), strict=True)):
        d = layer.dilation[axis]
        before = spare // 2 // d * d
        low, high = layer.padding[axis]
        pads.append((low - before, high - (spare - before)))
    return tuple(pads)


def _strided(steps: list[PlacedStep], layer: Layer) -> list[PlacedStep] | Refusal:
    if all(s == 1 for s in layer.stride):
        return steps
    able = [i for i, s in enumerate(steps) if s.op.strides]
    if not able:
        return Refusal("RK313", f"{_names(steps)} cannot skip positions, the layer's stride is {layer.stride}")
    at = max((i for i in able if any(steps[i].place.span)), default=able[-1])
    made = list(steps)
    made[at] = replace(made[at], place=replace(made[at].place, stride=layer.stride))
    return made


def _border(steps: list[PlacedStep], marks: Sequence[int], layer: Layer) -> Border | Refusal | None:
    """Where padding (or cropping) is exact; `None` when there is none to be done."""
    first = next((i for i, s in enumerate(steps) if _has_taps(s)), 0)
    if len(marks) > 1 or any(m > first for m in marks):
        behind = "twice" if len(marks) > 1 else f"behind {steps[first].op.name}"
        return Refusal("RK316", f"padding {behind}: an outer kernel would need positions the inner one never computed")
    pads = _pads(steps, layer)
    amounts = [p for pair in pads for p in pair]
    if not any(amounts):
        return None
    if min(amounts) < 0:  # cropping and zeros, at the very front, are exact whatever follows
        if layer.padding_mode != "zeros" and max(amounts) > 0:
            return Refusal("RK312", f"{layer.padding_mode} padding {pads}, which also crops")
        return Border(0, pads, "zeros", framed=False)
    at = marks[0] if marks else first
    front = steps[:at]
    if layer.padding_mode != "zeros" or not any(s.shifts for s in front):
        return Border(at, pads, layer.padding_mode, framed=False)
    framed = any(s.op.by_batch for s in front)
    return Border(at if framed else 0, pads, "zeros", framed)


def _has_taps(step: PlacedStep) -> bool:
    return step.op.name == SUM or any(step.place.span)


def _on_its_step(steps: list[PlacedStep], border: Border | None) -> tuple[list[PlacedStep], Border | None]:
    """The padding as the step's own, where it can do it."""
    if border is None or border.framed:
        return steps, border
    step = steps[border.at]
    even = all(low == high >= 0 for low, high in border.pads)
    # torch's poolings pad by half a window at most.
    far = not step.op.mixes and any(2 * p > k for (p, _), k in zip(border.pads, step.place.kernel_size, strict=True))
    if not even or far or border.mode not in step.op.pads or getattr(step.options, "identity", False):
        return steps, border
    place = replace(step.place, padding=tuple(low for low, _ in border.pads), padding_mode=border.mode)
    return [*steps[: border.at], replace(step, place=place), *steps[border.at + 1 :]], None


def _summed(step: Step, placed: PlacedStep, layer: Layer) -> PlacedStep | Refusal:
    """A `sum` with its branches beside what is left of the layer for them."""
    if step.op.name != SUM:
        return placed
    here = placed.place
    inner = replace(
        layer,
        in_channels=here.in_channels,
        out_channels=here.out_channels,
        stride=here.stride,
        padding=tuple((p, p) for p in here.padding),
        padding_mode=here.padding_mode,
    )
    legal = place_all(step.branches, inner)
    if not legal.branches:
        return legal.left_out[0]
    return replace(placed, branches=legal.branches)


def _named(branches: Sequence[Placed]) -> tuple[Placed, ...]:
    """Every branch with a name of its own: the recipe's, or one made from what it does."""
    names = numbered(branch.name or "_".join(_labels(branch)) or "identity" for branch in branches)
    return tuple(replace(branch, name=name) for branch, name in zip(branches, names, strict=True))


def _labels(branch: Placed) -> list[str]:
    """What a branch does, in words; batch norms and factors only where there is nothing else."""
    full = [_label(s) for s in branch.steps if s.op.mixes or (s.place.nd and s.op.taps != 1)]
    return full or [s.op.name for s in branch.steps if s.op.name != "identity"]


def _label(step: PlacedStep) -> str:
    if not step.place.nd or step.op.name == SUM:
        return step.op.name
    dilation = max((d for d, k in zip(step.place.dilation, step.place.kernel_size, strict=True) if k > 1), default=1)
    return f"{step.op.name}{'x'.join(map(str, step.place.kernel_size))}{f'd{dilation}' if dilation > 1 else ''}"


def _names(steps: Sequence[Step] | Sequence[PlacedStep]) -> str:
    return ", ".join(s.op.name for s in steps)
