"""hooks: what observes a module, so that its inside may not be mixed with its surroundings."""

from __future__ import annotations

from typing import Any

from torch import nn

from reparamkit.errors import Refusal

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
