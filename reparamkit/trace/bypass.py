"""What a forward that could not be traced does to the inside of its children, read from its source.

A traced forward shows every parameter it reads and every module it calls. One that could not be traced might still
read a grandchild's tensors, or call a grandchild past its parent; such modules must keep their numbers.
"""

from __future__ import annotations

import torch
from torch import nn

from reparamkit.trace.access import Access
from reparamkit.trace.held import held_modules
from reparamkit.trace.parameters import forward_of


def bypassed(module: nn.Module) -> set[nn.Module]:
    """Modules below `module` whose tensors its forward reads, or which it calls past a forward of their own.

    Args:
        module: a module whose forward could not be traced.

    Returns:
        All modules below it when the source does not tell which.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return {m for m in module.modules() if m is not module}
    children = {*module.children()}
    held = {
        m for value in module.__dict__.values() for m in held_modules(value) if m not in children and m is not module
    }
    if type(module).__module__.startswith("torch."):
        return held  # wrappers of torch call what they wrap
    access = Access(module)
    try:
        access.function(forward_of(module), [frozenset([module])])
    except Exception:  # reading somebody's code may fail in ways nobody has seen; then it may do anything
        access.anything(frozenset([module]))
    return (access.past | held) - {module}
