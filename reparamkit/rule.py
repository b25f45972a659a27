"""Declarations: what a rule is. A plugin returns them, the host does the dispatching.

A rule has an id (`plugin/name`) and is made of declarations of eight kinds; several may share one id:

| kind      | says                                                                    |
|-----------|-------------------------------------------------------------------------|
| `Lift`    | a module type, function or method is this operator                      |
| `Compose` | `outer(inner(x))` for two kinds of operators is this operator           |
| `Align`   | two operators that are to be added or stacked are brought to one form   |
| `Add`     | the sum of two operators of one form is this operator                   |
| `Concat`  | the stacked outputs of operators of one form are this operator          |
| `Lower`   | an operator is this module                                              |
| `Switch`  | something the planner may do is allowed                                 |
| `Transform` | a whole forward is written anew, by what linear algebra cannot say    |

A rule with an `opt_in` declaration is off until a recipe names it. Two rules for one target are an error, unless one of
them `overrides` the other, by its id.

All functions are pure. What they cannot do exactly they answer with a `Refusal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import fx, nn

    from reparamkit.block import Block
    from reparamkit.errors import Refusal
    from reparamkit.operators import Operator
    from reparamkit.term import Like


@dataclass(frozen=True)
class Lift:
    """How a module type, a function or a tensor method becomes an operator.

    Attributes:
        rule: id of the rule this belongs to.
        target: a module class, a function, ``"module.Class"`` (matched only when that module is imported)
            or ``".method"`` for a method of tensors.
        run: for a class ``(module, context) -> operator, Split, Tail or Refusal``; else ``(call, context) ->``
            `Through`, `Sum`, `Stack`, `Cat` or `Refusal`.
        subclasses: also match subclasses that inherit the forward.
        keeps_dtype: the result has the dtype of the input whatever the parameters have (batch norm).
        overrides: id of the rule whose lift of the same target this one replaces.
        opt_in: off until a recipe names the rule.
        origin: the plugin that declared it; filled in by the registry.
    """

    rule: str
    target: Any
    run: Any
    subclasses: bool = False
    keeps_dtype: bool = False
    overrides: str = ""
    opt_in: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Compose:
    """``run(outer, inner)``: the operator of ``outer(inner(x))``."""

    rule: str
    outer: type
    inner: type
    run: Callable[[Any, Any], Operator | Refusal]
    overrides: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Align:
    """``run(a, b)``: both in one form; the operators as they are when there is nothing to do.

    Attributes:
        rule: id of the rule this belongs to.
        order: alignments run in this order.
        run: the function.
    """

    rule: str
    order: int
    run: Callable[[Operator, Operator], tuple[Operator, Operator] | Refusal]
    overrides: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Add:
    """``run(a, b)``: the operator of ``a(x) + b(x)`` for aligned operators of one kind."""

    rule: str
    kind: type
    run: Callable[[Any, Any], Operator | Refusal]
    overrides: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Concat:
    """``run(parts)``: the operator whose output is the outputs of aligned `parts`, stacked along channels."""

    rule: str
    kind: type
    run: Callable[[Sequence[Any]], Operator | Refusal]
    overrides: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Lower:
    """``run(op, like)``: a module of the geometry of `op` whose numbers are not filled in yet."""

    rule: str
    kind: type
    run: Callable[[Any, Like], nn.Module | Refusal]
    overrides: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Switch:
    """Something the planner can do, and the condition under which it may.

    Attributes:
        rule: id of the rule this belongs to.
        run: the condition, called by the planner.
        opt_in: off until a recipe names the rule.
    """

    rule: str
    run: Callable[..., bool]
    opt_in: bool = False
    origin: str = ""


@dataclass(frozen=True, eq=False)
class Rewritten:
    """What a transform makes of a block.

    Attributes:
        modules: by name: one that exists below the block (dotted) is exchanged, any other is a new child.
        graph: the graph of the block, edited; `None` when only modules are exchanged.
        before: what was there, in a few words.
        after: what is there now.
        dtypes: what modules are rounded to once they are proven, by name: numbers that were computed come in float64.
    """

    modules: dict[str, nn.Module]
    graph: fx.Graph | None = None
    before: str = ""
    after: str = ""
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)


@dataclass(frozen=True)
class Transform:
    """A block's forward is written anew. For what the algebra of operators cannot say.

    Transforms run when all merges are made, each on every block in its scope, outer blocks first. What one returns is
    compared with the block in float64 before anything is changed.

    Attributes:
        rule: id of the rule this belongs to.
        run: ``(block) -> Rewritten``, a `Refusal`, or `None` when there is nothing for it in the block. It changes
            neither the module nor its tensors; the graph is a copy and may be edited.
        opt_in: off until a recipe names the rule.
        origin: the plugin that declared it; filled in by the registry.
    """

    rule: str
    run: Callable[[Block], Rewritten | Refusal | None]
    opt_in: bool = True
    origin: str = ""


Rule = Lift | Compose | Align | Add | Concat | Lower | Switch | Transform


def lifts(target: Any, rule: str, **options: Any) -> Callable[[Any], Lift]:
    """Declare the decorated function as the lift of `target`.

    Args:
        target: a module class, a function, ``"package.module.Class"`` or ``".method"``.
        rule: id of the rule, ``"plugin/name"``.
        **options: the other fields of `Lift`.

    Returns:
        A decorator that turns the function into a `Lift`.
    """
    return lambda run: Lift(rule, target, run, **options)


@dataclass(frozen=True)
class RuleSet:
    """The rules of one registry that are switched on, grouped for dispatch."""

    composes: dict[tuple[type, type], Compose] = field(default_factory=dict)
    aligns: tuple[Align, ...] = ()
    adds: dict[type, Add] = field(default_factory=dict)
    concats: dict[type, Concat] = field(default_factory=dict)
    lowers: dict[type, Lower] = field(default_factory=dict)


def grouped(rules: Sequence[Rule]) -> RuleSet:
    """`rules` by what they are looked up with."""
    return RuleSet(
        composes={(r.outer, r.inner): r for r in rules if isinstance(r, Compose)},
        aligns=tuple(sorted((r for r in rules if isinstance(r, Align)), key=lambda r: (r.order, r.rule))),
        adds={r.kind: r for r in rules if isinstance(r, Add)},
        concats={r.kind: r for r in rules if isinstance(r, Concat)},
        lowers={r.kind: r for r in rules if isinstance(r, Lower)},
    )
