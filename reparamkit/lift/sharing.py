"""sharing: modules with several names or call sites, where a recipe lets each of them have its own copy.

A copy under one of several names takes its place in the module that holds that name. A copy for one of several calls
in one forward is only possible by writing that forward anew, so such a module is never exchanged itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import fx, nn

from reparamkit.paths import joined
from reparamkit.survey import hooked

if TYPE_CHECKING:
    from reparamkit.survey import Survey


def call_sites(survey: Survey) -> Counter[str]:
    """How many nodes call the module at each path, over all forwards that were traced."""
    found: Counter[str] = Counter()
    for path, module in survey.modules.items():
        most: Counter[str] = Counter()
        for traced in survey.graphs(module):
            most |= Counter(_calls(traced.graph))
        found.update({joined(path, name): count for name, count in most.items()})
    return found


def _calls(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def may_have_copies(module: nn.Module, path: str, graph: fx.Graph, sites: Counter[str]) -> bool:
    """Whether every call of the module under this path stands in this forward, and nothing else observes it.

    Args:
        module: the shared module.
        path: one of its names.
        graph: the forward that calls it.
        sites: `call_sites` of the model.
    """
    if type(module).__call__ is not nn.Module.__call__ or hooked(module, path) is not None:
        return False
    here = sum(path == name or path.endswith(f".{name}") for name in _calls(graph))
    return here == sites[path]
