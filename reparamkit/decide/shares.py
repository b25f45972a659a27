"""shares: the flow is changed so that each layer beside a norm has a share of it, and changed back.

The shares are values like any other, so regions, costs and proofs need nothing of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reparamkit.decide.addends import over_addends
from reparamkit.decide.spreading import Spread
from reparamkit.decide.stacked import behind_stack
from reparamkit.flow import Share, Value
from reparamkit.operators import Layout, Scale
from reparamkit.rules import averaging
from reparamkit.rules.sizes import channels_of
from reparamkit.rules.spread import may_spread
from reparamkit.term import Term

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from reparamkit.flow import Flow
    from reparamkit.operators import Operator

_FAR, _MANY = 12, 16  # how far behind a norm, and how many, the layers may be


def shared_out(norm: Value, flow: Flow, done: Container[Value]) -> Spread | None:
    """The norm given to its neighbours, if there are several; `done` are the values that merge without that."""
    spread = Spread(norm, done)
    if norm.gone or not (_over_parts(spread, norm) or _over_readers(spread) or behind_stack(spread)):
        spread.undo(flow)
        return None
    flow.shares += spread.shares
    return spread


def _over_parts(spread: Spread, norm: Value) -> bool:
    """A share for each part of the concatenation or sum in front of `norm`; for parts of parts likewise."""
    reader, read = _in_front_of_averages(norm)
    cat, term = read, norm.term
    if cat.terms and spread.apart(cat):
        made = over_addends(spread, norm, reader, cat)
        return made is not None and _further(spread, made)
    if not cat.stacks:
        return reader is not norm and _before(spread, norm, reader)
    if cat.readers != [reader] or cat.escapes or len(set(cat.stacks)) < len(cat.stacks):
        return False
    sizes = _sizes(cat, norm)
    if sizes is None or not all(_may_take(part, cat) for part in cat.stacks):
        return False
    assert term is not None
    assert cat.stack_dim is not None
    shares, start = [], 0
    for part, size in zip(cat.stacks, sizes, strict=True):
        about = Share(spread.norm, norm, cat.stack_dim, start, size, sum(sizes))
        share = spread.share(norm, part, about, _cut(term, start, size), cat.index)
        share.users, start = [cat], start + size
        spread.change(part, users=[share if user is cat else user for user in part.users])
        shares.append(share)
    spread.change(cat, inputs=shares, stacks=tuple(shares), source=None, term=None)
    spread.change(norm, term=Term(Scale()), gone=True)
    return _further(spread, shares)


def _further(spread: Spread, shares: Sequence[Value]) -> bool:
    """Whether the shares of parts that have parts themselves go into those."""
    return all(_over_parts(spread, s) for s in shares if s.inputs[0].parts and spread.apart(s.inputs[0]))


def _in_front_of_averages(norm: Value) -> tuple[Value, Value]:
    """The first value of those that only average or copy positions on the way to `norm`, and what it reads."""
    reader = norm
    assert norm.term is not None
    while True:
        read = reader.inputs[0]
        kept = read.term is not None and _crosses(read.term, norm.term.op.nd) and read.rank == norm.rank
        if not kept or read.escapes or read.readers != [reader]:
            return reader, read
        reader = read


def _crosses(term: Term, nd: int | None) -> bool:
    """Whether a scale may be moved from behind `term` to its front."""
    return term.is_identity or _keeps(term.op, nd)


def _keeps(op: Operator, nd: int | None) -> bool:
    """Whether a scale with `nd` axes behind its channels is the same on both sides of `op`."""
    if nd is None:
        return False
    return op.after(nd) == nd and not op.channels if isinstance(op, Layout) else averaging.is_average(op)


def _before(spread: Spread, norm: Value, reader: Value) -> bool:
    """All of the norm in front of the averages that lead to it."""
    part, term = reader.inputs[0], norm.term
    assert term is not None
    assert isinstance(term.op, Scale)
    if not _may_take(part, reader) or term.op.channels is None or term.op.nd is None:
        return False
    if norm.rank is None or part.rank != norm.rank:
        return False
    about = Share(spread.norm, norm, norm.rank - 1 - term.op.nd, 0, term.op.channels, term.op.channels)
    share = spread.share(norm, part, about, term, reader.index)
    share.users = [reader]
    spread.change(part, users=[share if user is reader else user for user in part.users])
    spread.change(reader, inputs=[share], source=share)
    spread.change(norm, term=Term(Scale()), gone=True)
    return True


def _may_take(part: Value, cat: Value) -> bool:
    """Whether a part of `cat` ends with something a scale can go into, and nobody else reads it."""
    return part.readers == [cat] and not part.escapes and (part.term is not None or bool(part.parts))


def _sizes(cat: Value, norm: Value) -> list[int] | None:
    """Channels of each part of a concatenation along the axis of `norm`; at most one of them may be unknown."""
    assert norm.term is not None
    op = norm.term.op
    assert isinstance(op, Scale)
    rank = norm.rank or cat.rank
    if op.nd is None or rank is None or cat.stack_dim is None or cat.stack_dim % rank != rank - 1 - op.nd:
        return None
    sizes = [channels_of(part) for part in cat.stacks]
    known = sum(size or 0 for size in sizes)
    missing = (op.channels or 0) - known
    if sizes.count(None) > 1 or (missing > 0) != (None in sizes) or missing < 0:
        return None
    return [missing if size is None else size for size in sizes]


def _cut(term: Term, start: int, size: int) -> Term:
    op = term.op
    assert isinstance(op, Scale)
    scale, shift = (t if t is None or not t.ndim else t[start : start + size] for t in (op.scale, op.shift))
    assert scale is not None
    return replace(term, op=Scale(scale, shift, op.nd))


def _over_readers(spread: Spread) -> bool:
    """A share for each reader of the norm, or of the rearranged axes and further norms behind it."""
    norm, source = spread.norm, spread.norm.source
    ways = _ways_on([norm])
    if ways is None or (len(ways) < 2 and not any(_is_average(value) for value in ways[0])):
        return False
    assert source is not None
    spread.change(source, users=[user for user in source.users if user is not norm])
    for way in ways:
        end = _copied(spread, way[:-1], source, len(ways))
        reader, read = way[-1], way[-2]
        end.users = [reader]
        spread.change(reader, source=end, inputs=[end if v is read else v for v in reader.inputs])
    for value in {value for way in ways for value in way[:-1]}:
        spread.change(value, users=[user for user in value.users if user.meta], gone=True)
    return True


def _is_average(value: Value) -> bool:
    return value.term is not None and averaging.is_average(value.term.op)


def _ways_on(way: list[Value]) -> list[list[Value]] | None:
    """Every way from the end of `way` to an operator that is more than a scale; `None` where one leads elsewhere."""
    if way[-1].escapes or not way[-1].readers or len(way) > _FAR:
        return None
    found = []
    for reader in way[-1].readers:
        if reader.source is not way[-1] or reader.parts:
            return None
        passes = reader.stays or may_spread(reader) or _is_average(reader)
        on = _ways_on([*way, reader]) if passes else [[*way, reader]]
        if on is None:
            return None
        found += on
    return found if len(found) <= _MANY else None


def _copied(spread: Spread, chain: Sequence[Value], source: Value, among: int) -> Value:
    """The end of a copy of `chain` that reads `source`."""
    for value in chain:
        assert value.term is not None
        nd = value.term.op.nd
        term = Term(averaging.averaged(nd)) if nd is not None and _is_average(value) else value.term
        share = spread.share(value, source, Share(spread.norm, value, among=among), term, value.index)
        source.users = [*source.users, share]
        source = share
    return source
