"""build: placed branches become modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from reparamkit.branch import Place
from reparamkit.errors import Refusal
from reparamkit.expand.block import Branches, Expanded, Framed, padding
from reparamkit.expand.layer import Layer
from reparamkit.expand.names import numbered
from reparamkit.expand.ops.nest import SUM
from reparamkit.expand.placed import Placed, PlacedStep


def build(branches: Sequence[Placed], layer: Layer, online: bool = False) -> Expanded:
    """The expanded form of `layer`, with the initial numbers that its operations have by themselves.

    Args:
        branches: as placed beside `layer`.
        layer: what the block stands for.
        online: train linear branches through their merged kernel.
    """
    return Expanded(layer, modules_of(branches, online), online=online and is_linear(branches))


def modules_of(branches: Sequence[Placed], online: bool = False) -> dict[str, nn.Module]:
    """The modules of the branches, by name; `online` is for the sums inside those that are not linear as a whole."""
    inside = online and not is_linear(branches)
    return {branch.name: _branch(branch, inside) for branch in branches}


def is_linear(branches: Sequence[Placed]) -> bool:
    """Whether nothing in these branches looks at the whole batch."""
    return not any(s.op.by_batch or (s.branches and not is_linear(s.branches)) for b in branches for s in b.steps)


def can_be_online(branches: Sequence[Placed]) -> Refusal | None:
    """Why these branches cannot be trained through a merged kernel, if they cannot."""
    sums = [s for b in branches for s in b.steps if s.op.name == SUM]
    if is_linear(branches) or any(is_linear(s.branches) for s in sums):
        return None
    names = sorted({s.op.name for b in branches for s in b.steps if s.op.by_batch})
    return Refusal(
        "RK342",
        f"{', '.join(names)} in a branch looks at the whole batch; put it behind a `sum` of linear branches",
    )


def _branch(branch: Placed, online: bool) -> nn.Module:
    modules: list[tuple[str, nn.Module]] = []
    for index, step in enumerate([*branch.steps, None]):
        if branch.border is not None and branch.border.at == index:
            modules = _with_border(branch, modules)
        if step is not None:
            modules.append((step.op.name, _module(step, online)))
    made = modules[0][1] if len(modules) == 1 else _chain(modules)
    return made if branch.train else made.requires_grad_(False)


def _with_border(branch: Placed, front: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    border = branch.border
    assert border is not None
    if border.framed:
        return [("framed", Framed(_chain(front), border.pads))]
    return [*front, ("pad", padding(border.pads, border.mode))]


def _module(step: PlacedStep, online: bool) -> nn.Module:
    if step.op.name != SUM:
        return step.op.build(step.options, step.place)
    whole = online and is_linear(step.branches)
    return Branches(modules_of(step.branches, online), _layer_at(step.place) if whole else None)


def _layer_at(place: Place) -> Layer:
    """The geometry of a `sum`, as that of a layer."""
    return Layer(
        place.in_channels,
        place.out_channels,
        place.kernel_size,
        place.stride,
        tuple((p, p) for p in place.padding),
        place.dilation,
        place.groups,
        place.padding_mode,
    )


def _chain(modules: Sequence[tuple[str, nn.Module]]) -> nn.Sequential:
    names = numbered(name for name, _ in modules)
    return nn.Sequential(OrderedDict(zip(names, (module for _, module in modules), strict=True)))
