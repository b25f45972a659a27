"""What has to be known about a whole model first: which modules are shared, hooked, called and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.errors import ModelError, Refusal
from reparamkit.paths import below, holders, joined, modules_under
from reparamkit.places import Held, holders_of, places
from reparamkit.trace.bypass import bypassed
from reparamkit.trace.calls import with_all_ways
from reparamkit.trace.forward import Forked, Traced, trace
from reparamkit.trace.parameters import Takes, leaves_out
from reparamkit.trace.reuse import Memory
from reparamkit.trace.watch import storage_of, storages_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from reparamkit.registry import Registry

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_LEGACY = ("WeightNorm", "SpectralNorm", "BasePruningMethod")


@dataclass
class Survey:
    """A model and what is known about all of it.

    Attributes:
        modules: every module by path, parents first; a shared module under each of its names.
        held: who holds a module, and under which name, by its identity.
        calls: how many places call a module, by identity.
        caller: the module whose forward calls it (the last of them), and the path there, likewise.
        unused: the modules whose forward nobody calls, while what is in them is called by others, likewise.
        touched: which forwards (by path) read a module's tensors or call past its parent, by its identity.
        looked: which of these only ask its parameters for their shape, dtype or device, likewise.
        traced: the forward of every module that is traced, by identity.
        ranks_in: axes of the inputs of each module where an example was run, by path.
        ranks_out: axes of its output, likewise.
        sizes_in: size of its first input there, by path; of the last call, if there were several.
        sizes_out: size of its output, likewise.
    """

    modules: dict[str, nn.Module]
    held: Held
    calls: Counter[int] = field(default_factory=Counter)
    caller: dict[int, tuple[nn.Module, str]] = field(default_factory=dict)
    unused: set[int] = field(default_factory=set)
    touched: dict[int, set[str]] = field(default_factory=dict)
    looked: dict[int, set[str]] = field(default_factory=dict)
    traced: dict[int, Traced | Forked | Refusal] = field(default_factory=dict)
    ranks_in: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    ranks_out: dict[str, int | None] = field(default_factory=dict)
    sizes_in: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sizes_out: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def is_read_from_outside(self, path: str) -> bool:
        """Whether code outside the module at `path` reads tensors of it, or of a module inside it."""
        return path in self._read_from_outside

    def is_needed_outside(self, path: str) -> bool:
        """Whether it does so for more than shape, dtype and device, which are the same after a swap of numbers."""
        return path in self._needed_outside

    @cached_property
    def names(self) -> Counter[int]:
        """How many modules hold a module, by identity; what holds it may have several names in turn."""
        return Counter({key: len(holders) for key, holders in self.held.items()})

    @cached_property
    def places(self) -> dict[int, str]:
        """The path at which a module is dealt with, by identity: from where it is called, if that is one place."""
        once = {key: caller for key, caller in self.caller.items() if self.calls[key] == 1}
        return places(self.modules, self.held, once)

    def other_names(self, path: str) -> tuple[str, ...]:
        """The other paths of the module at `path`, one for each that holds it."""
        holders = self.held.get(id(self.modules[path]), [])
        held = [joined(self.places[id(holder)], name) for holder, name in holders]
        return tuple(other for other in held if other != path)

    def is_shared(self, module: nn.Module) -> bool:
        """Whether a module with several names may be called under more than one of them."""
        if self.names[id(module)] < 2:
            return False
        return self.calls[id(module)] != 1 or not all(self._is_followed(holder) for holder, _ in self.held[id(module)])

    def _is_followed(self, holder: nn.Module) -> bool:
        """Whether all that a module calls, and all that is called through it, is known."""
        traced = self.traced.get(id(holder))
        if id(holder) in self.unused:
            return True
        if traced is None:
            around = self.held.get(id(holder), [])
            return only_holds(holder) and all(self._is_followed(outer) for outer, _ in around)
        return isinstance(traced, Traced) or (isinstance(traced, Forked) and traced.unknown is None)

    @cached_property
    def _read_from_outside(self) -> frozenset[str]:
        return self._with_readers_outside(self.touched)

    @cached_property
    def _needed_outside(self) -> frozenset[str]:
        none: set[str] = set()
        return self._with_readers_outside(
            {m: readers - self.looked.get(m, none) for m, readers in self.touched.items()}
        )

    def _with_readers_outside(self, touched: dict[int, set[str]]) -> frozenset[str]:
        found: set[str] = set()
        for path, module in self.modules.items():
            for reader in touched.get(id(module), ()):
                around = (path, *holders(path), "")
                found.update(p for p in around if not (reader == p or below(reader, p)))
        return frozenset(found)

    def boundary(self, path: str) -> Refusal | None:
        """Why the inside of this module may not be mixed with its surroundings, if so."""
        module = self.modules[path]
        if self.is_shared(module):
            return Refusal("RK301", f"the module has {self.names[id(module)]} names", path)
        if self.calls[id(module)] > 1:
            return Refusal("RK301", f"the module is called at {self.calls[id(module)]} places", path)
        if type(module).__call__ is not nn.Module.__call__:
            return Refusal("RK330", f"{type(module).__name__} has a __call__ of its own", path)
        return hooked(module, path)

    def graphs(self, module: nn.Module) -> tuple[Traced, ...]:
        """Every way through the forward of a module that was seen."""
        traced = self.traced.get(id(module))
        return traced.graphs if isinstance(traced, (Traced, Forked)) else ()

    def is_leaf(self, module: nn.Module, registry: Registry) -> bool:
        """Whether the module stays whole: a rule knows it, or it is one of torch's own."""
        if "forward" in module.__dict__:
            return False
        if registry.module_lift(type(module)) is not None:
            return True
        home = type(module).__module__
        return home.startswith("torch.nn.") and not isinstance(module, (nn.Sequential, *_CONTAINERS))


def only_holds(module: nn.Module) -> bool:
    """Whether it is a list or dictionary of modules without a forward (torchvision's backbones are ones with).

    A wrapper that hands all arguments on (`torch.compile`, `nn.DataParallel`, an average of weights) is none to ask
    either: its forward says nothing about the model in it.
    """
    if any(kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch.") for kind in type(module).__mro__):
        return True
    return isinstance(module, _CONTAINERS) and type(module).forward is nn.Module.forward


_WRAPPERS = ("OptimizedModule", "DataParallel", "AveragedModel")


def hooked(module: nn.Module, path: str) -> Refusal | None:
    """A refusal when anything observes the module."""
    if not any(map(module.__dict__.get, HOOKS)):
        return None
    for name in HOOKS:
        hooks = module.__dict__.get(name)
        for hook in hooks.values() if hooks else ():
            kind = type(hook).__name__
            if kind in _LEGACY or any(b.__name__ in _LEGACY for b in type(hook).__mro__):
                return Refusal("RK308", f"{kind} computes the weight before every call; remove it first", path)
            if name in ("_state_dict_hooks", "_load_state_dict_pre_hooks") and _is_torch(hook):
                continue
            return Refusal("RK306", f"{name[1:].replace('_', ' ').removesuffix('s')} on {type(module).__name__}", path)
    return None


def _is_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")


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
    given, wide = Memory(memory.returns), Memory(memory.returns)
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
        known = found.names[id(module)] == 1 and module not in past and _owner_traced(found, path)
        made = with_all_ways(module, traced, calls.get(id(module)) if known else None, lambda m=module: wide(m))
        found.traced[id(module)] = made
        prefix = f"{path}." if path else ""
        for graph in found.graphs(module):
            for node, name in zip(graph.calls, graph.called, strict=True):
                calls.setdefault(id(found.modules[prefix + name]), []).append(node)


def _owner_traced(found: Survey, path: str) -> bool:
    """Whether the nearest module around that has a forward could be traced."""
    while path:
        path = path.rpartition(".")[0]
        traced = found.traced.get(id(found.modules[path]))
        if traced is not None:
            return not isinstance(traced, Refusal)
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
