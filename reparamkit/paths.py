"""Module paths: dotted names, the empty one for the root."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn


def joined(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`."""
    return f"{path}.{name}" if path else name


def below(path: str, root: str) -> bool:
    """Whether `path` lies inside the module at `root`, another one than the model itself."""
    return path.startswith(f"{root}.")


def holders(path: str) -> Iterator[str]:
    """The paths of the modules around the one at `path`, without the root, the outermost first."""
    return (path[:at] for at, sign in enumerate(path) if sign == ".")


def within(path: str, roots: Collection[str]) -> bool:
    """Whether `path` is one of `roots` or lies inside one."""
    return path in roots or any(holder in roots for holder in holders(path))


def module_at(root: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`, or `None` when there is none (a parameter is none)."""
    found: Any = root
    for part in path.split(".") if path else ():
        if not isinstance(found, nn.Module) or part not in found._modules:
            return None
        found = found._modules[part]
    return found if isinstance(found, nn.Module) else None


def modules_under(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every (path, module), parents before children, one entry for each name a module has; no recursion."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        yield path, module
        prefix = f"{path}." if path else ""
        children = [(prefix + n, c) for n, c in module._modules.items() if c is not None]
        stack.extend(reversed(children))


def tensors_of(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module and of those in it: as `nn.Module.parameters` gives them, but sooner."""
    if module._modules:
        return [*module.parameters(), *module.buffers()]
    return [t for held in (module._parameters, module._buffers) for t in held.values() if t is not None]


def buffers_of(module: nn.Module) -> list[Tensor]:
    """Its buffers alone, likewise."""
    return list(module.buffers()) if module._modules else [t for t in module._buffers.values() if t is not None]
