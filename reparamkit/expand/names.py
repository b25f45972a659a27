"""Names that modules inside a block can have."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from reparamkit.expand.layer import Layer

_TAKEN = frozenset(Layer.__dataclass_fields__) | {"in_features", "out_features", "biased", "weight", "layer"}


def is_usable(name: str) -> bool:
    """Whether a branch can have this name: it means nothing to a module yet."""
    return name.isidentifier() and not hasattr(nn.Module, name) and name not in _TAKEN and not name.startswith("_")


def numbered(names: Iterable[str]) -> list[str]:
    """The names made usable and different: conv, conv_1, conv_2; ``double_`` for what every module has already."""
    made: list[str] = []
    for wanted in names:
        stem = name = wanted if is_usable(wanted) else f"{wanted}_"
        count = 0
        while name in made:
            count += 1
            name = f"{stem}_{count}"
        made.append(name)
    return made
