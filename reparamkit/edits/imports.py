"""Where the global names of a forward come from: a forward that is written anew imports them."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reparamkit.flow import Frame, Value

Import = tuple[str, str]  # module, attribute


def imports_of(names: Mapping[str, Any]) -> dict[str, Import] | Refusal:
    """The import of each name; a `Refusal` when one has none."""
    found = {name: _import_of(name, value) for name, value in names.items()}
    missing = next((name for name, where in found.items() if where is None), None)
    if missing is not None:
        return Refusal("RK604", f"{missing} is a global of the forward that cannot be imported")
    return {name: where for name, where in found.items() if where is not None}


def not_importable(frame: Frame, gone: Iterable[Value]) -> Refusal | None:
    """Why a forward cannot be written anew, when what is left of it without `gone` calls what cannot be imported."""
    inside = set(gone)
    left = [node for node in frame.traced.graph.nodes if frame.values.get(node) not in inside]
    called = {str(n.target): n.target for n in left if n.op == "call_function" and not _is_from_torch(n.target)}
    found = imports_of({**named_tuples(left), **called})
    return found.at(frame.path) if isinstance(found, Refusal) else None


def _is_from_torch(target: Any) -> bool:
    """Whether it is written as ``torch.name``; functions in C have no module in older versions."""
    return (getattr(target, "__module__", None) or "torch").partition(".")[0] == "torch"


def named_tuples(nodes: Iterable[fx.Node]) -> dict[str, Any]:
    """The classes of named tuples: torch 2.6 writes their names into the code and does not tell."""
    found: dict[str, Any] = {}
    left: list[Any] = [node.args for node in nodes]
    while left:
        item = left.pop()
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            known = found.setdefault(type(item).__name__, type(item))
            found[type(item).__name__] = known if known is type(item) else object()  # two of one name: neither
        if isinstance(item, (tuple, list, dict)):
            left += item.values() if isinstance(item, dict) else item
    return found


def _import_of(name: str, value: Any) -> Import | None:
    if isinstance(value, types.ModuleType):
        return value.__name__, ""
    if isinstance(value, float):  # inf and nan
        return "math", name
    if value is type(None):
        return "types", "NoneType"
    if value is torch.device:
        return "torch", "device"
    module, attribute = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not attribute or _found(module, attribute) is not value:
        return None
    return module, attribute


def _found(module: str, path: str) -> Any:
    """What an import would find there, as far as it is loaded: code that was run as text has no module to import."""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
