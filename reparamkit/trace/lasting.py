"""lasting: what a forward leaves on its module, and whether the next call would go the same way.

A forward may count its calls (``self.step += 1``), fill a cache, or leave a value for others to read. A trace sees one
call. It stands for all of them when nothing was left that the forward itself reads, or when a second call, on what the
first one left, does the same and leaves the same: that is a cache. Anything else is state, and no graph holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx.proxy import Proxy

from reparamkit.trace.classes import Absent, state_of
from reparamkit.trace.proxies import proxies_in
from reparamkit.trace.twin import FILLABLE, REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from reparamkit.trace.reuse import Log

Place = tuple[str, str]


@dataclass(frozen=True)
class Lasting:
    """What one run left on the twins of its modules.

    Attributes:
        changed: (path of the module, attribute) -> what is there now.
        looked: those of them that the forward read before it wrote.
    """

    changed: dict[Place, Any]
    looked: frozenset[Place]

    @property
    def carried(self) -> dict[Place, Any]:
        """What the next call would find and read."""
        return {place: value for place, value in self.changed.items() if place in self.looked}

    @property
    def written(self) -> frozenset[str]:
        """Names of attributes that it wrote without looking, other than traced values."""
        return frozenset(p[1] for p, value in self.changed.items() if p not in self.looked and not proxies_in(value))

    @property
    def traced(self) -> str | None:
        """An attribute that carries a traced value from one call to the next."""
        return next((name for (_, name), value in self.carried.items() if proxies_in(value)), None)

    def settles(self, following: Lasting) -> str | None:
        """An attribute that the following run leaves in another state than this one did, if any."""
        for place in (*self.carried, *(p for p in following.looked if p not in self.changed)):
            if not alike(self.changed.get(place, Absent), following.changed.get(place, Absent)):
                return place[1]
        return None


def left_behind(twins: list[tuple[Any, nn.Module]], log: Log) -> Lasting:
    """What a run left on its twins, each given with the module it is a twin of."""
    changed: dict[Place, Any] = {}
    looked: set[Place] = set()
    for twin, module in twins:
        state = state_of(twin)
        for name, before, after in _changes(state, module):
            place = (state["_twin_path"], name)
            changed[place] = after
            if _looked(log, place, before):
                looked.add(place)
    return Lasting(changed, frozenset(looked))


def _changes(state: dict[str, Any], module: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """(name, before, after) of every attribute, parameter and buffer that is not what it was."""
    pairs = [(module.__dict__, state), *((module.__dict__[k], state[k]) for k in REGISTRIES)]
    for before, after in pairs:
        for name, now in dict.items(after):
            was = state.get("_twin_held", {}).get(name, before.get(name, Absent))
            if was is not now and name not in _REPLACED and not alike(was, now):
                yield name, was, now
        for name in before.keys() - dict.keys(after) - _REPLACED:
            yield name, before[name], Absent


_TWIN = ("_twin_log", "_twin_path", "_twin_tracer", "_twin_reads_training", "_twin_held")
_REPLACED = frozenset({"_modules", "training", "forward", *REGISTRIES, *_TWIN})


def _looked(log: Log, place: Place, before: Any) -> bool:
    """Whether the forward read the attribute when it was still what it had been before the call."""
    if not log.complete:
        return True
    if place not in log.first:
        return False
    # A container that was read may have been filled afterwards: it is the one from before all the same.
    return type(before) in FILLABLE or alike(log.first[place], before)


def alike(one: Any, other: Any) -> bool:
    """Whether two attributes are the same for a forward; what cannot be compared is not."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Proxy):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) or type(one) in FILLABLE[3:]:
        return len(one) == len(other) and (one == other if isinstance(one, set) else all(map(alike, one, other)))
    return isinstance(one, _COMPARED) and one == other


_COMPARED = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
