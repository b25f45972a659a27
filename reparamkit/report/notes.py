"""notes: what is exact about a merge, and still worth knowing before it is relied on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reparamkit.paths import joined

if TYPE_CHECKING:
    from reparamkit.planned import Planned

Ties = Mapping[int, list[tuple[str, nn.Module]]]
_LARGE = 1e3  # a factor that float16 may not survive


def notes_of(edits: Iterable[Planned], modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """A line for everything odd about the modules that are merged; read before they are changed.

    Args:
        edits: the merges that are made.
        modules: of the model, by path.
    """
    tied = _tied(modules)
    found: list[str] = []
    for edit in edits:
        merged = {v.module_path: v.module for v in edit.edit.candidate.values if v.module is not None}
        for path, module in merged.items():
            where = str(path)
            found += [*_of_norm(where, module), *_of_ties(where, module, tied, set(merged.values()))]
        found += _of_all(edit.edit.path or "(root)", list(merged.values()))
    return tuple(dict.fromkeys(found))


def _of_norm(path: str, module: nn.Module) -> Iterator[str]:
    """Channels of a batch norm that are multiplied by nothing, or by very much."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not isinstance(module.running_var, Tensor):
        return
    scale = torch.rsqrt(module.running_var.double() + module.eps)
    if module.weight is not None:
        gone = int((module.weight == 0).sum())
        if gone:
            yield f"{path}: weight is 0 in {gone} of {module.weight.numel()} channels, whose kernels are 0 now"
        scale = scale * module.weight.detach().double().abs()
    largest, channel = (float(scale.max()), int(scale.argmax())) if scale.numel() else (0.0, 0)
    if largest > _LARGE:
        variance = float(module.running_var[channel])
        factor = f"multiplied by {largest:.3g} (running_var {variance:.3g})"
        yield f"{path}: channel {channel} is {factor}; float16 may overflow"


def _of_ties(path: str, module: nn.Module, tied: Ties, gone: set[Any]) -> Iterator[str]:
    for name, parameter in module._parameters.items():
        others = [where for where, owner in tied.get(id(parameter), ()) if owner not in gone]
        if others:
            yield f"{joined(path, name)}: was tied to {', '.join(others)}, which keeps its numbers; they are apart now"


def _of_all(path: str, modules: list[nn.Module]) -> Iterator[str]:
    tensors = [t for m in modules for t in m._parameters.values() if t is not None]
    if any(t.grad is not None for t in tensors):
        yield f"{path}: gradients of what was merged are not carried over"
    convs = {t.dtype for m in modules for t in m._parameters.values() if t is not None and t.ndim > 1}
    others = {t.dtype for t in tensors} - convs
    if len(convs) == 1 and others:
        shown = ", ".join(sorted(map(_name, others)))
        yield f"{path}: {shown} parameters went into a {_name(*convs)} kernel, rounded to it"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tied(modules: Mapping[str, nn.Module]) -> Ties:
    """Parameters that several modules hold: where."""
    held: dict[int, dict[int, tuple[str, nn.Module]]] = defaultdict(dict)
    for path, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                held[id(parameter)].setdefault(id(module), (joined(path, name), module))
    return {key: list(owners.values()) for key, owners in held.items() if len(owners) > 1}
