"""splice: the only file that changes a model. It is told what to do by finished, proven edits.

Everything that can fail has been done before: modules are built and filled, code is written and compiled. What is
left is a list of small steps, each of which is written into a journal that can take it back; if anything fails before
the conversion has returned, all are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from reparamkit.edits.copies import copy_of
from reparamkit.edits.emit import Emitted
from reparamkit.edits.rewritten import quiet_class, rewritten_class
from reparamkit.paths import module_at, modules_under
from reparamkit.trace.held import exchanged, own_places


@dataclass(frozen=True, eq=False)
class Steps:
    """What is to be done to a model, by paths, so that a copy can be changed as well.

    Attributes:
        weights: path of a module that keeps its geometry -> the module whose parameters it takes over.
        modules: path -> the module that takes its place.
        aside: path -> what stands there once the module's operator has moved elsewhere.
        remainders: path -> names of the children that stay, in order (or a maker of what stays).
        rewrites: path -> (the new forward, names and modules it calls).
        quiet: paths of modules whose converter methods would fold again what is folded.
        also: the other paths of a module that is exchanged at one of them, by that one.
    """

    weights: dict[str, nn.Module] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    aside: dict[str, nn.Module] = field(default_factory=dict)
    remainders: dict[str, tuple[str, ...] | Callable[[], nn.Module]] = field(default_factory=dict)
    rewrites: dict[str, tuple[Emitted, dict[str, nn.Module]]] = field(default_factory=dict)
    quiet: tuple[str, ...] = ()
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Journal:
    """Steps done so far and how to undo them."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def attributes(self, module: nn.Module, *registries: str) -> None:
        """Remember the class and these registries of a module before they change."""
        kept = {name: dict(module.__dict__[name]) for name in registries}
        cls = type(module)
        plain = dict(module.__dict__)

        def undo() -> None:
            object.__setattr__(module, "__class__", cls)
            module.__dict__.clear()
            module.__dict__.update(plain)
            for name, items in kept.items():
                registry = module.__dict__[name]
                registry.clear()
                registry.update(items)

        self._undo.append(undo)

    def rollback(self) -> None:
        """Undo every step, the last one first; who interrupts that is told when it is done."""
        interrupt = None
        while self._undo:
            try:
                while self._undo:
                    self._undo[-1]()  # a step that was undone in part can be undone again
                    self._undo.pop()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def copied(model: nn.Module, steps: Steps) -> nn.Module:
    """A deep copy of `model` in which what `steps` throws away was not copied.

    Raises:
        ModelError: RK110 when something in the model cannot be copied, with its path.
    """
    memo: dict[int, Any] = {}
    names = Counter(id(m) for _, m in modules_under(model))
    owners = Counter(id(t) for m in {m for _, m in modules_under(model)} for t in m._parameters.values())
    for module in _doomed(model, steps):
        if names[id(module)] == 1:
            memo[id(module)] = nn.Identity()
    for path in steps.weights:
        for tensor in model.get_submodule(path)._parameters.values():
            if tensor is not None and owners[id(tensor)] == 1:
                memo[id(tensor)] = tensor  # replaced right after; sharing it for a moment costs nothing
    return copy_of(model, memo, instead="use inplace=True")


def _doomed(model: nn.Module, steps: Steps) -> list[nn.Module]:
    doomed = [model.get_submodule(p) for p in (*steps.modules, *steps.aside) if p]
    for path, (emitted, _) in steps.rewrites.items():
        owner = model.get_submodule(path)
        for name in emitted.removed:
            found = module_at(owner, name)
            if found is not None:
                doomed.append(found)
    return doomed


def splice(model: nn.Module, steps: Steps, journal: Journal) -> None:
    """Change `model` in place.

    Args:
        model: the model, or a copy of it.
        steps: what to do.
        journal: each step is written down there before it is taken.
    """
    for path, filled in steps.weights.items():
        _take_parameters(model.get_submodule(path), filled, journal)
    gone: dict[int, nn.Module] = {}
    for path, module in (*steps.modules.items(), *steps.aside.items()):
        _put(model, (path, *steps.also.get(path, ())), module, journal, gone)
    for path, names in steps.remainders.items():
        _put(model, (path, *steps.also.get(path, ())), _rest(model.get_submodule(path), names), journal, gone)
    for path, (emitted, merged) in steps.rewrites.items():
        _rewrite(model.get_submodule(path), emitted, merged, journal)
    for path in steps.quiet:
        _quiet(model.get_submodule(path), journal)
    _put_in_places(model, gone, journal)


def _take_parameters(module: nn.Module, filled: nn.Module, journal: Journal) -> None:
    journal.attributes(module, "_parameters")
    for name, value in filled._parameters.items():
        module._parameters[name] = value


def _put(
    model: nn.Module, paths: Sequence[str], module: nn.Module, journal: Journal, gone: dict[int, nn.Module]
) -> None:
    gone[id(model.get_submodule(paths[0]))] = module
    for path in paths:
        owner_path, _, name = path.rpartition(".")
        owner = model.get_submodule(owner_path)
        journal.attributes(owner, "_modules")
        owner._modules[name] = module


def _put_in_places(model: nn.Module, gone: Mapping[int, nn.Module], journal: Journal) -> None:
    """Exchange modules in lists and the like, too."""
    for module in {m for _, m in modules_under(model)}:
        for name, value in list(own_places(module)):
            made = exchanged(value, lambda held: gone.get(id(held)))
            if made is not value:
                journal.attributes(module)
                module.__dict__[name] = made


def _rest(module: nn.Module, names: tuple[str, ...] | Callable[[], nn.Module]) -> nn.Module:
    if callable(names):
        return names()
    children = [module.get_submodule(name) for name in names]
    if len(children) == 1:
        return children[0]
    return nn.Sequential(*children).eval() if children else nn.Identity().eval()


def _rewrite(module: nn.Module, emitted: Emitted, merged: Mapping[str, nn.Module], journal: Journal) -> None:
    journal.attributes(module, "_modules", "_parameters", "_buffers")
    for name in emitted.removed:
        _remove(module, name, journal)
    for name, child in merged.items():
        module.__dict__.pop(name, None)
        module._parameters.pop(name, None)
        module._buffers.pop(name, None)
        module._modules[name] = child
    cls = rewritten_class(type(module), emitted.source, emitted.imports)
    object.__setattr__(module, "__class__", cls)


def _quiet(module: nn.Module, journal: Journal) -> None:
    journal.attributes(module)
    object.__setattr__(module, "__class__", quiet_class(type(module)))


def _remove(module: nn.Module, name: str, journal: Journal) -> None:
    head, _, tail = name.partition(".")
    if not tail:
        for registry in (module._modules, module._parameters, module._buffers):
            registry.pop(head, None)
        if head in ("weight", "bias") and _is_torch_layer(type(module)):
            module._parameters[head] = None  # what torch's own methods of the layer still ask for, to print it
        return
    child = module._modules.get(head)
    if child is None:
        return
    journal.attributes(child, "_modules", "_parameters", "_buffers")
    places = tuple(child._modules)
    _remove(child, tail, journal)
    if not (child._modules or any(True for _ in child.parameters()) or any(True for _ in child.buffers())):
        module._modules.pop(head, None)
    elif isinstance(child, nn.ModuleList):
        _keep_places(child, places)


def _keep_places(modules: nn.ModuleList, places: tuple[str, ...]) -> None:
    """The places of a list are its names: one that is gone keeps its place, and the order is what it was."""
    kept = {name: modules._modules.get(name, nn.Identity().eval()) for name in places}
    modules._modules.clear()
    modules._modules.update(kept)


def _is_torch_layer(cls: type[nn.Module]) -> bool:
    """Whether it is derived from a layer of torch, not from `nn.Module` alone."""
    return any(base.__module__.startswith("torch.nn.modules.") and base is not nn.Module for base in cls.__mro__)


def new_name(module: nn.Module, wanted: str, taken: Sequence[str]) -> str:
    """`wanted`, or the first free name that starts with it."""
    name, count = wanted, 0
    while name in taken or not is_free(module, name):
        count += 1
        name = f"{wanted}_{count}"
    return name


def is_free(module: nn.Module, name: str) -> bool:
    """Whether `name` means nothing to the module yet; an attribute that is `None` waits to be filled."""
    registries = (module.__dict__, module._modules, module._parameters, module._buffers)
    if any(name in registry for registry in registries):
        return all(registry.get(name) is None for registry in registries)
    return not hasattr(type(module), name)
