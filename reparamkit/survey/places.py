"""places: who holds a module, and at which of its paths it is dealt with.

A module may be registered more than once: as an attribute and in a sequence, or in an encoder that is kept beside the
layers taken out of it. What holds it may be registered more than once in turn, so that it has many paths. It is dealt
with at one of them: where it is called.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

Held = Mapping[int, list[tuple[nn.Module, str]]]


def holders_of(modules: Mapping[str, nn.Module]) -> Held:
    """For each module that another one holds, by identity: who holds it, and under which name."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for holder in {id(module): module for module in modules.values()}.values():
        for name, child in holder._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((holder, name))
    return found


def places(modules: Mapping[str, nn.Module], held: Held, caller: Mapping[int, tuple[nn.Module, str]]) -> dict[int, str]:
    """One path of each module, by identity; that of what is in a module begins with that of the module.

    Args:
        modules: of the model, by path, parents first; several paths may have the same module.
        held: `holders_of` them.
        caller: the one module whose forward calls a module, and the path from there, where there is one.
    """
    if all(len(holders) == 1 for holders in held.values()):
        return {id(module): path for path, module in modules.items()}
    found: dict[int, str] = {}
    for module in modules.values():
        steps: list[tuple[int, str]] = []
        key = id(module)
        while key not in found and key in held:
            above, name = caller.get(key) or held[key][0]
            steps.append((key, name))
            key = id(above)
        path = found.setdefault(key, "")
        for key, name in reversed(steps):
            path = found[key] = f"{path}.{name}" if path else name
    return found
