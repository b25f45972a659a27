"""onlooker: a rule of a plugin looks at a module. It may read everything and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from reparamkit.trace.reuse import Log
from reparamkit.trace.watch import Untraceable, Watch, storages_of

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextmanager
def only_looks(module: nn.Module) -> Iterator[None]:
    """Stop code that would change a tensor of `module`, and put back its attributes.

    Raises:
        Untraceable: with what was changed, or would have been.
    """
    kept = [module.__dict__, *(module.__dict__[name] for name in _REGISTRIES)]
    before = [dict(held) for held in kept]
    try:
        with Watch(storages_of(module), Log()):
            yield
    finally:
        changed = [name for held, was in zip(kept, before, strict=True) for name in _changed(held, was)]
        if changed:
            for held, was in zip(kept, before, strict=True):
                held.clear()
                held.update(was)
    if changed:
        raise Untraceable(f"changes the attribute {changed[0]} of the {type(module).__name__} it looks at")


def _changed(held: dict[str, object], was: dict[str, object]) -> Iterator[str]:
    for name in held.keys() | was.keys():
        if held.get(name, was) is not was.get(name, held):
            yield name
