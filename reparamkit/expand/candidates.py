"""candidates: which layers of a model can have branches, and why the others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from reparamkit.errors import Refusal
from reparamkit.expand.ops.conv import CONVS
from reparamkit.paths import within
from reparamkit.rules.usable import unusable
from reparamkit.standin import StandIn
from reparamkit.survey import Survey, hooked


def layers_in(found: Survey) -> Iterator[tuple[str, nn.Module, Refusal | None]]:
    """Every convolution and linear layer that is not part of an expanded one, and what speaks against it."""
    expanded = [path for path, module in found.modules.items() if isinstance(module, StandIn)]
    owners = Counter(id(t) for m in set(found.modules.values()) for t in m._parameters.values() if t is not None)
    for path, module in found.modules.items():
        if isinstance(module, CONVS) and not within(path, expanded) and path == found.places[id(module)]:
            yield path, module, _unfit(path, module, found, owners)


def _unfit(path: str, module: nn.Module, found: Survey, owners: Counter[int]) -> Refusal | None:
    """Why this layer must stay as it is."""
    if type(module) not in CONVS:
        return Refusal("RK330", f"{type(module).__name__} is a layer of its own kind", path)
    if "forward" in module.__dict__:
        return Refusal("RK331", "the instance has a forward of its own", path)
    if found.is_shared(module):
        return Refusal("RK301", f"the module has {found.names[id(module)]} names", path)
    if any(owners[id(t)] > 1 for t in module._parameters.values() if t is not None):
        return Refusal("RK301", "its parameters are another module's as well", path)
    if id(module) in found.touched:
        reader = min(found.touched[id(module)]) or "(root)"
        return Refusal("RK301", f"the forward of {reader} reads its tensors", path)
    refusal = hooked(module, path) or unusable(*module._parameters.values())
    return refusal.at(path) if refusal is not None else None
