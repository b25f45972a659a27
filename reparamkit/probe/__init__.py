"""probe: modules that no trace can follow, measured as black boxes (rule `core/probe`).

    zero input   -> bias, equal at every position or refused      `geometry`
    sizes        -> stride, padding                               `geometry`
    impulses     -> kernel, dilation, groups                      `impulses`
    random input -> proof, in several sizes and magnitudes        `proof`

All of it runs on a float64 copy of the module (`blackbox`). What a module is found to be takes the place of the trace
that it does not have: the rest of the pipeline goes on as with any other forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from reparamkit.errors import Refusal
from reparamkit.paths import within
from reparamkit.probe.blackbox import Unmeasurable
from reparamkit.probe.measure import Work, measure
from reparamkit.probe.takes import single_input
from reparamkit.rules.probe import Measured, probed
from reparamkit.survey import hooked
from reparamkit.trace.traced import Traced

if TYPE_CHECKING:
    from reparamkit.survey import Survey

_NUMBERS = 1 << 25  # stored numbers of a module that is copied in float64


def probe(found: Survey, wanted: Callable[[str], bool]) -> list[Refusal]:
    """Give a trace to every module that has none and turns out to be an operator.

    Args:
        found: the survey; `Survey.traced` gets what was measured.
        wanted: whether the module of a path may be measured.

    Returns:
        Why the others are not operators (RK610), were not measured (RK611) or cannot be (RK612).
    """
    refused: list[Refusal] = []
    measured: list[str] = []
    work = Work()
    for path, module in found.modules.items():
        if not isinstance(found.traced.get(id(module)), Refusal) or not wanted(path) or within(path, measured):
            continue
        try:
            _check(found, path, module)
            made = measure(module, found.sizes_in.get(path), work)
        except Unmeasurable as error:
            refused.append(error.refusal.at(path or "(root)"))
            continue
        found.traced[id(module)] = _traced(module, made)
        measured.append(path)
    return refused


def _check(found: Survey, path: str, module: nn.Module) -> None:
    """Raise `Unmeasurable` when the module is not one that may be replaced as a whole."""
    single_input(module)
    numbers = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    if numbers > _NUMBERS:
        raise Unmeasurable("RK611", f"it stores {numbers:,d} numbers, more than {_NUMBERS:,d}")
    prefix = f"{path}." if path else ""
    for inner, child in found.modules.items():
        if not inner.startswith(prefix) and inner != path:
            continue
        observed = hooked(child, inner) if inner != path else None
        if observed is not None:
            raise Unmeasurable(observed.code, f"{inner}: {observed.reason}")
        outside = [r for r in found.touched.get(id(child), ()) if r != path and not r.startswith(prefix)]
        if outside:
            raise Unmeasurable("RK301", f"the forward of {outside[0] or '(root)'} reads tensors of {inner}")


def _traced(module: nn.Module, measured: Measured) -> Traced:
    """The trace the module would have if a forward were one call of an operator."""
    graph = fx.Graph()
    x = graph.placeholder(single_input(module))
    tensors = (*module.named_parameters(), *module.named_buffers())
    read = [graph.get_attr(name) for name, tensor in tensors if tensor.is_floating_point()]
    given: Any = (x, measured, read)
    graph.output(graph.call_function(probed, given))
    held: tuple[Any, ...] = (module._modules, module._parameters, module._buffers)
    names = frozenset(name for registry in held for name, _ in registry.items())
    # It was measured in eval mode and for a plain call only: `reads_training` makes any other an error.
    return Traced(graph, {}, {}, True, names, frozenset(), frozenset(), "")


__all__ = ["probe"]
