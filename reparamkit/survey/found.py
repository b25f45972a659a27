"""found: what is known about a whole model: which modules are shared, hooked, called and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from reparamkit.errors import Refusal
from reparamkit.paths import below, holders, joined
from reparamkit.survey.hooks import hooked
from reparamkit.survey.places import Held, places
from reparamkit.trace.traced import Forked, Traced

if TYPE_CHECKING:
    from reparamkit.registry import Registry

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


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
