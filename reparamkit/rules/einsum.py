"""core/einsum: products with a constant that are written with letters.

Formula: ``einsum('k,kbchw->bchw', w, s)`` is ``(w s).sum(0)``, the weighted sum of a stack; ``'bchw,c->bchw'`` is a
scale for each channel; ``'oi,bihw->bohw'`` is a convolution of one tap, ``'bni,oi->bno'`` a linear layer.
`torch.tensordot` is one without letters.

Conditions: two operands, one of them made of parameters alone; every letter of the other stays in its place, or the one
that is summed is that of a stack, or that of the channels. An ellipsis needs a known number of axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from reparamkit.answers import Call, Context, Stack, Sum, Through
from reparamkit.errors import Refusal
from reparamkit.operators import conv
from reparamkit.rule import Lift, Rule
from reparamkit.rules.constants import times
from reparamkit.rules.stacked import is_along, scaled_stack, stack_of, sum_of

RULE = "core/einsum"
_Answer = Through | Stack | Sum | Refusal
_NOT_ONE = Refusal("RK331", "a product that is no scale, no layer of one tap and no sum of a stack")


@dataclass(frozen=True)
class _Product:
    """A constant and a value with a letter for each of their axes, and the letters of the result."""

    constant: Tensor
    fixed: str
    value: Any
    given: str
    made: str

    def aligned(self) -> Tensor:
        """The constant with all axes of the value, in order; those it does not have are of size 1."""
        order = [self.fixed.index(letter) for letter in self.given if letter in self.fixed]
        turned = self.constant.permute(order)
        return turned[tuple(slice(None) if letter in self.fixed else None for letter in self.given)]


def lift_einsum(call: Call, context: Context) -> _Answer:
    """`torch.einsum`."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = [*operands[0]]
    if not isinstance(equation, str) or len(operands) != 2 or call.kwargs:
        return _NOT_ONE
    found, arrow, made = equation.replace(" ", "").partition("->")
    letters = found.split(",")
    if not arrow or len(letters) != 2:
        return _NOT_ONE
    return _lifted(operands, _without_dots([*letters, made], operands))


def lift_tensordot(call: Call, context: Context) -> _Answer:
    """`torch.tensordot`."""
    bound = call.bind("a", "b", dims=2)
    pairs, ranks = bound["dims"], [_rank(bound[name]) for name in ("a", "b")]
    if not isinstance(pairs, (list, tuple)) or len(pairs) != 2 or None in ranks:
        return _NOT_ONE
    first, second = list(ascii_letters[: ranks[0]]), list(ascii_letters[26 : 26 + (ranks[1] or 0)])
    summed = [([p] if type(p) is int else list(p)) for p in pairs]
    for here, there in zip(*summed, strict=True):
        second[there] = first[here]
    gone = {first[axis] for axis in summed[0]}
    made = [letter for letter in (*first, *second) if letter not in gone]
    return _lifted([bound["a"], bound["b"]], ["".join(first), "".join(second), "".join(made)])


def _rank(operand: Any) -> int | None:
    return operand.ndim if isinstance(operand, Tensor) else getattr(operand, "rank", None)


def _without_dots(letters: list[str], operands: Sequence[Any]) -> list[str] | None:
    """The same letters, with some for what dots stand for."""
    if not any("." in part for part in letters):
        return letters
    dotted = [(part, _rank(operand)) for part, operand in zip(letters, operands, strict=False) if "..." in part]
    counts = {None if rank is None else rank - len(part.replace("...", "")) for part, rank in dotted}
    count = counts.pop() if len(counts) == 1 else None
    if count is None:
        return None
    free = "".join(letter for letter in ascii_letters if letter not in "".join(letters))
    return [part.replace("...", free[:count]) for part in letters]


def _lifted(operands: Sequence[Any], letters: list[str] | None) -> _Answer:
    constants = [isinstance(operand, Tensor) for operand in operands]
    if letters is None or sum(constants) != 1 or any(len(set(part)) < len(part) for part in letters):
        return _NOT_ONE
    at = constants.index(True)
    product = _Product(operands[at], letters[at], operands[1 - at], letters[1 - at], letters[2])
    if product.constant.ndim != len(product.fixed) or _rank(product.value) not in (None, len(product.given)):
        return _NOT_ONE
    return _scaled(product) if set(product.fixed) <= set(product.given) else _mixed(product)


def _scaled(product: _Product) -> _Answer:
    """No letter of the constant is new: the value is scaled, and summed where a letter goes."""
    stack, gone = stack_of(product.value), [letter for letter in product.given if letter not in product.made]
    if product.made != "".join(letter for letter in product.given if letter not in gone):
        return _NOT_ONE
    whole = times(product.value, product.aligned()) if stack is None else scaled_stack(product.value, product.aligned())
    if not gone:
        return whole
    along = len(gone) == 1 and isinstance(whole, Stack) and is_along(whole, product.given.index(gone[0]))
    return sum_of(whole, 1.0) if along and isinstance(whole, Stack) else _NOT_ONE


def _mixed(product: _Product) -> _Answer:
    """One letter takes the place of another: a layer of one tap, on the second axis or on the last."""
    new = [letter for letter in product.made if letter not in product.given]
    old = [letter for letter in product.given if letter not in product.made]
    plain = len(new) == len(old) == 1 and set(product.fixed) == {*new, *old}
    if not plain or product.made != product.given.replace(old[0], new[0]):
        return _NOT_ONE
    axis, last = product.given.index(old[0]), len(product.given) - 1
    if axis == 0 or axis not in (1, last) or last > 4:
        return _NOT_ONE
    matrix = product.constant if product.fixed == new[0] + old[0] else product.constant.T
    behind = 0 if axis == last else last - axis
    return Through(product.value, conv(matrix.reshape(*matrix.shape, *[1] * behind)))


rules: tuple[Rule, ...] = (
    Lift(RULE, torch.einsum, lift_einsum),
    Lift(RULE, torch.tensordot, lift_tensordot),
)
