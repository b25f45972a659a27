"""Links: a value becomes an operator of a source, with what its module will have to look like."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor, nn

from reparamkit.answers import Cat
from reparamkit.errors import Refusal
from reparamkit.flow import Value
from reparamkit.lift.chain import nearest_common, path_term, sum_term
from reparamkit.merge import Algebra
from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Operator, Stencil
from reparamkit.rule import Lift
from reparamkit.term import Like, Term


def like_of(tensors: Iterable[Tensor], op: Operator, lift: Lift, owner: nn.Module | None = None) -> Like | None:
    """What a module made from these tensors takes over; `owner` computed them where they are no parameters."""
    found = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
    if not found:
        return None
    main = max(found, key=lambda t: (t.ndim, t.numel()))
    computed = not isinstance(main, nn.Parameter) and owner is not None
    sources = [*found, *owner.parameters(recurse=False)] if computed and owner is not None else found
    grads = [t.requires_grad for t in sources]
    wide = [t.requires_grad for t in sources if t.ndim > 1]
    kernel = isinstance(op, (Conv, ConvTranspose))
    last = main.ndim == 4 and not main.is_contiguous() and main.is_contiguous(memory_format=torch.channels_last)
    return Like(
        main.dtype,
        main.device,
        weight_grad=any(wide) if kernel and wide else any(grads),
        bias_grad=any(grads) if not kernel else any(t.requires_grad for t in found if t.ndim == 1),
        channels_last=last,
        decides=not lift.keeps_dtype and main.ndim > 0,
    )


def link(value: Value, source: Value, term: Term) -> None:
    """`value` is `term` of `source`."""
    value.source, value.term = source, term
    value.density = source.density * _positions(term)
    if value.rank is None and isinstance(term.op, Layout):
        value.rank = term.op.left
    elif not isinstance(term.op, (Layout, Arranged)):
        _share_rank(value, source, term.op.nd)


def _share_rank(value: Value, source: Value, nd: int | None) -> None:
    """An operator gives as many axes as it takes: an example may have told of one end only."""
    if value.rank is None:
        value.rank = nd + 2 if nd else source.rank
    elif source.rank is None and not nd:
        source.rank = value.rank


def _positions(term: Term) -> float:
    op = term.op.one if isinstance(term.op, Stencil) else term.op
    if isinstance(op, ConvTranspose):
        return float(prod(op.stride))
    return 1.0 / prod(op.stride) if isinstance(op, Conv) else 1.0


def link_sum(value: Value, algebra: Algebra, rules: frozenset[str]) -> None:
    """Link a sum to the nearest common source of its terms, or say why not."""
    made = sum_term(value.terms, algebra)
    if isinstance(made, Refusal):
        value.refusal = made.at(value.where)
        return
    source, term = made
    link(value, source, term.by(rules))


def link_cat(value: Value, cat: Cat, algebra: Algebra, rules: frozenset[str]) -> None:
    """Link a concatenation of channels to the nearest common source of its parts, or say why not."""
    value.stacks, value.stack_dim = cat.values, cat.dim
    source = nearest_common(list(cat.values))
    if source is None:
        value.refusal = Refusal("RK318", "the stacked values have no common source", value.where)
        return
    terms = [path_term(v, source, algebra) for v in cat.values]
    refused = next((t for t in terms if isinstance(t, Refusal)), None)
    made = refused or algebra.concat([t for t in terms if isinstance(t, Term)])
    if isinstance(made, Term) and cat.dim not in _channel_axes(made.op):
        made = Refusal("RK331", f"a concatenation along axis {cat.dim}")
    if isinstance(made, Refusal):
        value.refusal = made.at(value.where)
        return
    link(value, source, made.by(rules))


def _channel_axes(op: Operator) -> tuple[int, ...]:
    nd = getattr(op, "nd", None)
    if nd is None:
        return ()
    return (-1,) if nd == 0 else (1, -1 - nd)
