"""look: a whole model, once: every forward traced, and who calls whom how often."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.errors import ModelError, Refusal
from reparamkit.paths import below, modules_under
from reparamkit.survey.found import Survey, only_holds
from reparamkit.survey.places import holders_of
from reparamkit.trace.bypass import bypassed
from reparamkit.trace.calls import with_all_ways
from reparamkit.trace.forward import trace
from reparamkit.trace.parameters import Takes, leaves_out
from reparamkit.trace.reuse import Memory
from reparamkit.trace.traced import Forked, Traced
from reparamkit.trace.watch import storage_of, storages_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from reparamkit.registry import Registry


def survey(model: nn.Module, registry: Registry) -> Survey:
    """Look at all of `model` and trace every forward in it.

    Raises:
        ModelError: RK110 when the module tree contains itself.
    """
    modules: dict[str, nn.Module] = {}
    for path, module in modules_under(model):
        if len(modules) > 1_000_000:
            raise ModelError("RK110", "the module tree has more than a million names; does it contain itself?")
        modules[path] = module
    found = Survey(modules, holders_of(modules))
    storages = storages_of(model)
    memory = Memory()
    given, wide = Memory(memory.shared), Memory(memory.shared)
    for module in modules.values():
        if id(module) in found.traced or only_holds(module) or found.is_leaf(module, registry):
            continue
        found.traced[id(module)] = _traced(module, storages, memory, given)
    _forget_bypassed(found)
    past: set[nn.Module] = set()
    for path, module in modules.items():
        if isinstance(found.traced.get(id(module)), Refusal):
            missed = bypassed(module)
            past |= missed
            for other in missed:
                found.touched.setdefault(id(other), set()).add(path)
    _see_all_ways(found, past, lambda module: trace(module, storages, wide, Takes.ANYTHING))
    counted: set[int] = set()
    for path, module in modules.items():
        traced = found.traced.get(id(module))
        if isinstance(traced, Refusal):
            found.traced[id(module)] = traced.at(path or "(root)")
        elif traced is not None and id(module) not in counted:
            counted.add(id(module))
            _count(found, path, module)
    return found


def _traced(module: nn.Module, storages: frozenset[int], memory: Memory, given: Memory) -> Traced | Forked | Refusal:
    """The forward for a plain call; for one that gives the optional arguments, where it cannot do without them."""
    made = trace(module, storages, memory)
    if isinstance(made, Refusal) and leaves_out(module):
        other = trace(module, storages, given, Takes.GIVEN)
        return made if isinstance(other, Refusal) else other
    return made


def _see_all_ways(found: Survey, past: set[nn.Module], wide: Callable[[nn.Module], Any]) -> None:
    """Add, for modules that may be called with other arguments than they were traced for, the ways they go then."""
    calls: dict[int, list[fx.Node]] = {}
    done: set[int] = set()
    for path, module in found.modules.items():
        traced = found.traced.get(id(module))
        if traced is None or isinstance(traced, Refusal) or id(module) in done:
            continue
        done.add(id(module))
        known = found.names[id(module)] == 1 and module not in past and _owner_known(found, path)
        made = with_all_ways(module, traced, calls.get(id(module)) if known else None, lambda m=module: wide(m))
        found.traced[id(module)] = made
        prefix = f"{path}." if path else ""
        for graph in found.graphs(module):
            for node, name in zip(graph.calls, graph.called, strict=True):
                calls.setdefault(id(found.modules[prefix + name]), []).append(node)


def _owner_known(found: Survey, path: str) -> bool:
    """Whether every way through the nearest module around that has a forward was seen, and with it every call."""
    while path:
        path = path.rpartition(".")[0]
        traced = found.traced.get(id(found.modules[path]))
        if traced is not None:
            return isinstance(traced, Traced) or (isinstance(traced, Forked) and traced.unknown is None)
    return False


def _forget_bypassed(found: Survey) -> None:
    """Drop the forward of a mere holder: never called itself, while modules inside it are called from outside."""
    alive = _alive(found)
    called = {id(found.modules[path]) for path in alive}

    def is_called_layer(module: nn.Module) -> bool:
        return id(module) in called and bool(module._parameters or module._buffers)

    for path, module in found.modules.items():
        if id(module) in called or id(module) not in found.traced:
            continue
        if any(below(name, path) for name in alive) or any(map(is_called_layer, module.modules())):
            del found.traced[id(module)]
            found.unused.add(id(module))


def _alive(found: Survey) -> set[str]:
    """Paths that are called, as far as traced forwards tell; below one that was not traced, all of them."""
    alive: set[str] = set()
    stack = [""]
    while stack:
        path = stack.pop()
        if path in alive:
            continue
        alive.add(path)
        module = found.modules[path]
        prefix = f"{path}." if path else ""
        graphs = found.graphs(module)
        for traced in graphs:
            stack += [prefix + name for name in traced.called]
            stack += [prefix + name for name in traced.ran]
        if not graphs:
            stack += [prefix + name for name, child in module._modules.items() if child is not None]
    return alive


def _count(found: Survey, path: str, module: nn.Module) -> None:
    prefix = f"{path}." if path else ""
    most: Counter[int] = Counter()
    owners: set[str] = set()
    needed: set[str] = set()
    past: frozenset[int] = frozenset()
    for traced in found.graphs(module):
        called = [found.modules[prefix + name] for name in traced.called]
        most |= Counter(map(id, called))  # of the ways, one is taken
        owners |= {name.rpartition(".")[0] for name in traced.looked}
        needed |= {name.rpartition(".")[0] for name in traced.reads - traced.looked} | traced.ran
        past |= traced.past
        found.caller.update((id(child), (module, name)) for child, name in zip(called, traced.called, strict=True))
    found.calls.update(most)  # `+=` walks through all that is counted so far
    for owner in (owners | needed) - {""}:
        read = found.modules.get(prefix + owner)
        if read is not None:
            found.touched.setdefault(id(read), set()).add(path)
            if owner not in needed:
                found.looked.setdefault(id(read), set()).add(path)
    for holder in _holders(found, past):
        found.touched.setdefault(id(holder), set()).add(path)
        found.looked.get(id(holder), set()).discard(path)


def _holders(found: Survey, storages: frozenset[int]) -> list[nn.Module]:
    """The modules that have tensors in these storages."""
    if not storages:
        return []
    modules = found.modules.values()
    return [
        m
        for m in modules
        if any(storage_of(t) in storages for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
    ]
