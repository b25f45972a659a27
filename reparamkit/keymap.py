"""keymap: which weights of the converted model come from which weights of the original."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx, nn

from reparamkit.edits.edit import Swap
from reparamkit.lift.constant import read_by
from reparamkit.paths import joined, modules_under, within

if TYPE_CHECKING:
    from reparamkit.flow import Flow, Value
    from reparamkit.planned import Planned


def keys_of(model: nn.Module) -> tuple[str, ...]:
    """The keys of `model.state_dict()`, in its order, without running the hooks of it."""
    found = []
    for path, module in modules_under(model):
        found += [joined(path, name) for name, tensor in module._parameters.items() if tensor is not None]
        found += [
            joined(path, name)
            for name, tensor in module._buffers.items()
            if tensor is not None and name not in module._non_persistent_buffers_set
        ]
    return tuple(found)


@dataclass(frozen=True)
class Move:
    """Weights that a transform exchanged.

    Attributes:
        gone: paths of the modules and tensors it exchanged or took out.
        keys: of the modules it put in; their numbers may depend on all of `gone`.
    """

    gone: tuple[str, ...]
    keys: tuple[str, ...]


def moved(mapping: Mapping[str, tuple[str, ...]], moves: Iterable[Move]) -> Mapping[str, tuple[str, ...]]:
    """A key map continued through what transforms did to the merged model, one after the other."""
    for move in moves:
        mapping = {old: tuple(dict.fromkeys(_follow(new, move))) for old, new in mapping.items()}
    return mapping


def followed(
    mapping: Mapping[str, tuple[str, ...]], further: Mapping[str, tuple[str, ...]]
) -> Mapping[str, tuple[str, ...]]:
    """A key map continued through that of a further round of merges."""
    return {old: tuple(dict.fromkeys(k for key in new for k in further[key])) for old, new in mapping.items()}


def _follow(keys: Iterable[str], move: Move) -> Iterator[str]:
    for key in keys:
        yield from move.keys if within(key, move.gone) else (key,)


def key_map(before: Iterable[str], after: Iterable[str], edits: Iterable[Planned]) -> Mapping[str, tuple[str, ...]]:
    """Old key -> the new keys whose numbers depend on it.

    Args:
        before: keys of the original.
        after: keys of the converted model.
        edits: the merges that were made.

    Returns:
        For each old key: itself, when it was not part of a merge; the weight and the bias of what it was merged
        into; nothing, when its numbers play no part any more (``num_batches_tracked``).
    """
    old, new = _by_place(before), set(after)
    merged: dict[str, list[str]] = {}
    for planned in edits:
        made = _result(planned)
        into = [key for key in (joined(made, "weight"), joined(made, "bias")) if key in new]
        places = {place for value in planned.edit.candidate.values for place in _places(value, planned.flow)}
        for key in {key for place in places for key in old.get(place, ())}:
            found = merged.setdefault(key, [])
            found += [k for k in into if k not in found]
    return {key: _where(key, merged, new) for key in old[""]}


def _where(key: str, merged: Mapping[str, list[str]], new: set[str]) -> tuple[str, ...]:
    if key in merged and not key.endswith("num_batches_tracked"):
        return tuple(merged[key])
    return (key,) if key in new else ()


def _by_place(keys: Iterable[str]) -> dict[str, list[str]]:
    """Keys by themselves and by every module they are in; all of them under the empty name."""
    found: dict[str, list[str]] = {"": []}
    for key in keys:
        found[""].append(key)
        for place in (key, *(key[: at + 1] for at, sign in enumerate(key) if sign == ".")):
            found.setdefault(place, []).append(key)
    return found


def _result(planned: Planned) -> str:
    path = planned.edit.path
    return path if isinstance(planned.edit, Swap) else joined(path, planned.name)


def _places(value: Value, flow: Flow) -> Iterator[str]:
    """Tensors by name; modules by their path and a dot (the root is no part of a region as a whole)."""
    if value.share is not None and value.share.steps:
        for step in value.share.steps:
            yield from _places(step, flow)
        return
    if value.module_path is not None:
        yield f"{value.module_path}." if value.module_path else ""
        return
    frame = flow.frames[value.path]
    for node in read_by(value.node, frame):
        if str(node.target) in frame.traced.constants:
            # It was computed from what the forward looked at; from which of it is not recorded.
            yield from (joined(frame.path, name) for name in _unnamed(frame.traced.reads, frame.traced.graph))
        else:
            yield joined(frame.path, str(node.target))


def _unnamed(reads: frozenset[str], graph: fx.Graph) -> frozenset[str]:
    return reads - {str(node.target) for node in graph.nodes if node.op == "get_attr"}
