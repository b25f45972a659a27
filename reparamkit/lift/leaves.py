"""leaves: values of modules that stay whole: a rule knows them, or they are opaque with a reason."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from reparamkit.answers import Split, Tail
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Frame, Value
from reparamkit.lift.answer import answer_about_module
from reparamkit.lift.link import like_of, link
from reparamkit.lift.made import context_of, inputs_of, new_value
from reparamkit.lift.sharing import call_sites
from reparamkit.lift.sharing import may_have_copies as could_have_copies
from reparamkit.merge import Algebra
from reparamkit.nodes.ranks import rank_of_module
from reparamkit.paths import tensors_of
from reparamkit.registry import Registry
from reparamkit.rule import Lift
from reparamkit.rules import no_op, unshare
from reparamkit.survey import Survey, hooked
from reparamkit.term import Term

_ANCHORS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class LeafLifter:
    """Makes the values of calls of modules that stay whole."""

    def __init__(self, survey: Survey, registry: Registry, algebra: Algebra) -> None:
        self.survey = survey
        self.registry = registry
        self.algebra = algebra
        self._sites: Counter[str] | None = None

    def value_of(self, flow: Flow, frame: Frame, node: fx.Node, path: str) -> Value:
        """The value of a call of the module at `path`; of one that does nothing, its input."""
        module = self.survey.modules[path]
        inputs = inputs_of(frame, node)
        lift = self.registry.module_lift(type(module))
        if lift is not None and self._is_no_op(lift, module, node, inputs):
            return inputs[0]
        value = new_value(flow, frame.path, node, inputs)
        value.module_path, value.module = path, module
        value.mutates = bool(getattr(module, "inplace", False))
        value.rank = rank_after(self.survey, path, module, inputs)
        if lift is None:
            return value
        if len(inputs) != 1 or len(node.args) + len(node.kwargs) != 1:
            value.refusal = Refusal("RK331", f"{type(module).__name__} is called with more than its input", path)
            return value
        if not self.algebra.enabled(lift.rule):
            value.refusal = None if lift.opt_in else Refusal("RK801", lift.rule, path)
            return value
        op = answer_about_module(lift, module, context_of(inputs))
        if isinstance(op, Split):
            value.split, op = op, op.op
        if isinstance(op, Refusal):
            value.refusal = op.at(path)
            return value
        if isinstance(op, Tail):
            return self.tailed(flow, frame, node, value, op, lift)
        like = like_of(tensors_of(module), op, lift)
        link(value, inputs[0], Term(op, frozenset([lift.rule]), like))
        if value.split is None:
            return value
        rest = new_value(flow, frame.path, node, [value])
        rest.module_path, rest.module = path, module
        rest.mutates = True
        return rest

    def tailed(self, flow: Flow, frame: Frame, node: fx.Node, head: Value, tail: Tail, lift: Lift) -> Value:
        """A module that ends with an operator: a value for what it does first, and one for the operator."""
        value = new_value(flow, frame.path, node, [head])
        value.module_path, value.module, value.tail = head.module_path, head.module, tail
        assert head.module is not None
        link(value, head, Term(tail.op, frozenset([lift.rule]), like_of(head.module.parameters(), tail.op, lift)))
        return value

    def _is_no_op(self, lift: Lift, module: nn.Module, node: fx.Node, inputs: list[Value]) -> bool:
        """Whether the module hands its input on: then its output is the very same value."""
        if lift.rule != no_op.RULE or len(inputs) != 1 or len(node.args) + len(node.kwargs) != 1:
            return False
        return self.algebra.enabled(lift.rule) and not module.training

    def may_have_copies(self, frame: Frame, module: nn.Module, path: str) -> bool:
        """Whether a recipe lets the callers of a shared convolution or linear layer have a copy each."""
        if not self.algebra.enabled(unshare.RULE) or not self.survey.is_leaf(module, self.registry):
            return False
        if self._sites is None:
            self._sites = call_sites(self.survey)
        graph = frame.traced.graph
        return isinstance(module, _ANCHORS) and could_have_copies(module, path, graph, self._sites)

    def copied(self, flow: Flow, frame: Frame, node: fx.Node, path: str) -> Value:
        """As `value_of`, of a module that each of its callers may have a copy of."""
        value = self.value_of(flow, frame, node, path)
        assert self._sites is not None
        value.shared = self._sites[path] > 1
        if value.term is not None:
            value.term = value.term.by(frozenset([unshare.RULE]))
        return value

    def is_shared_no_op(self, module: nn.Module, node: fx.Node, inputs: list[Value]) -> bool:
        """Whether it is one dropout for many places: who does nothing does nothing everywhere."""
        lift = self.registry.module_lift(type(module)) if self.survey.is_leaf(module, self.registry) else None
        return lift is not None and self._is_no_op(lift, module, node, inputs) and hooked(module, "") is None


def rank_after(survey: Survey, path: str, module: nn.Module, inputs: list[Value]) -> int | None:
    """How many axes the output of `module` has, where that is known."""
    known = rank_of_module(module, inputs[0].rank if inputs else None)
    return survey.ranks_out.get(path) if known is None else known
