"""addends: a share of a norm for each addend of the sum in front of it, also where an addend has a factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reparamkit.flow import Share, Value
from reparamkit.operators import Scale
from reparamkit.rules.parted import is_step
from reparamkit.rules.sizes import channels_of
from reparamkit.term import Term

if TYPE_CHECKING:
    from reparamkit.decide.spreading import Spread


@dataclass(frozen=True, eq=False)
class _Addend:
    """One addend.

    Attributes:
        value: what is scaled.
        reader: what reads it: the sum, or the first of the products.
        products: of it with constants, on the way to the sum.
        factor: with which the sum takes it.
    """

    value: Value
    reader: Value
    products: tuple[Value, ...]
    factor: Any

    @property
    def by(self) -> Any:
        """What the value is multiplied with before it is added, a number or one for each channel; `None` if unknown."""
        found = self.factor
        for product in self.products:
            assert product.term is not None
            found = found * product.term.op.scale  # type: ignore[union-attr]
        return found if isinstance(self.factor, float) else None

    @property
    def can_be_shifted(self) -> bool:
        """Whether something that is added to the value arrives at the sum."""
        by = self.by
        return by is not None and bool((by != 0) if isinstance(by, float) else (by != 0).all())


def over_addends(spread: Spread, norm: Value, reader: Value, total: Value) -> list[Value] | None:
    """A share for each addend of the sum in front of `norm`: each of them is scaled, one is shifted as well.

    Args:
        spread: gets the shares.
        norm: a norm, or a share of one.
        reader: what alone reads the sum on the way to it.
        total: the sum.

    Returns:
        The shares; `None` where one of the addends cannot take one.
    """
    term, rank, addends = norm.term, norm.rank or total.rank, [_addend(f, part, total) for f, part in total.terms]
    assert term is not None
    assert isinstance(term.op, Scale)
    channels, nd = term.op.channels, term.op.nd
    if total.readers != [reader] or total.escapes or len({one.value for one in addends}) < len(addends):
        return None
    if channels is None or nd is None or rank is None or not all(map(_takes, addends)):
        return None
    plain = [one for one in addends if one.factor == 1.0 and not one.products]
    shifted = next((one for one in [*plain, *addends] if one.can_be_shifted), None)
    if shifted is None or any(channels_of(one.value) not in (None, channels) for one in addends):
        return None
    whole = Share(spread.norm, norm, rank - 1 - nd, 0, channels, channels, len(addends))
    shares = [_shared(spread, one, norm, whole, one is shifted, total.index) for one in addends]
    spread.change(total, source=None, term=None)
    spread.change(norm, term=Term(Scale()), gone=True)
    return shares


def _addend(factor: Any, part: Value, total: Value) -> _Addend:
    reader, products = total, list[Value]()
    while is_step(part) and _is_product(part) and part.readers == [reader] and not part.escapes:
        reader, part = part, part.inputs[0]
        products.append(reader)
    return _Addend(part, reader, tuple(reversed(products)), factor)


def _is_product(value: Value) -> bool:
    assert value.term is not None
    return value.source is value.inputs[0] and value.term.op.shift is None  # type: ignore[union-attr]


def _takes(one: _Addend) -> bool:
    """Whether it ends with something a scale can go into, which nobody else reads."""
    alone = one.value.readers == [one.reader] and not one.value.escapes
    made = one.value.term is not None or bool(one.value.parts)
    return alone and made and isinstance(one.factor, (float, Scale))


def _shared(spread: Spread, one: _Addend, norm: Value, whole: Share, shifted: bool, index: int) -> Value:
    """The share of an addend, in front of its products."""
    assert norm.term is not None
    op: Any = norm.term.op
    by = one.by if shifted else None
    shift = None if op.shift is None or by is None else op.shift / by
    about = replace(whole, linear=not shifted, steps=(), over=one.products if shifted else ())
    if shifted:
        about = replace(about, factor=one.factor)
    term = replace(norm.term, op=Scale(op.scale, shift, op.nd))
    at = one.products[0].index if one.products else index
    share = spread.share(norm, one.value, about, term, at)
    share.users = [one.reader]
    spread.change(one.value, users=[share if user is one.reader else user for user in one.value.users])
    spread.read_instead(one.reader, one.value, share)
    return share
