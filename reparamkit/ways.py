"""Edits of a forward that goes several ways: right only where every way does the same with what they touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.errors import Refusal
from reparamkit.paths import below
from reparamkit.region import region

if TYPE_CHECKING:
    from reparamkit.decide import Candidate
    from reparamkit.flow import Flow, Value


def other_way(candidate: Candidate, flow: Flow) -> Refusal | None:
    """Why exchanging the modules of `candidate` would change another way through the forward, if so."""
    if not (flow.ways or flow.unknown) and flow.main:
        return None
    if _inside_a_child(candidate, flow):
        return None
    where = candidate.target.where
    if flow.unknown is not None:
        return flow.unknown.at(where)
    chain = _modules(candidate)
    if chain is None:
        return Refusal("RK604", "the forward depends on what it is given, and this is more than a chain of modules", where)
    if any(_breaks(chain, way) for way in flow.ways):
        return Refusal("RK604", "the forward does something else with it, depending on what it is given", where)
    return None


def _inside_a_child(candidate: Candidate, flow: Flow) -> bool:
    """Whether all of the region stands in the forward of one child, which goes its way whatever the parent does."""
    prefix = f"{flow.path}." if flow.path else ""
    paths = [value.path for value in candidate.values]
    first = min(paths, key=len)
    return first not in ("", flow.path) and first.startswith(prefix) and all(
        path == first or below(path, first) for path in paths
    )


def _modules(candidate: Candidate) -> list[str] | None:
    """Paths of the modules of a region that is a chain of them, in order."""
    called = [v for v in candidate.values if v.term is None or not v.term.is_identity]
    if any(v.module_path is None or v.parts for v in called):
        return None
    return [str(v.module_path) for v in called]


def _breaks(chain: list[str], way: Flow) -> bool:
    """Whether `way` calls one of the modules, but not as this chain with nobody else reading what is between."""
    calls = {v.module_path: v for v in way.values if v.module_path in chain}
    if not calls:
        return False
    value: Value | None = calls.get(chain[-1])
    for path in reversed(chain):
        value = _past_identities(value)
        if value is None or value.module_path != path or value.term is None:
            return True
        value = value.source
    return value is None or value.unstable is not None or isinstance(region(value, calls[chain[-1]]), Refusal)


def _past_identities(value: Value | None) -> Value | None:
    while value is not None and value.term is not None and value.term.is_identity:
        value = value.source
    return value
