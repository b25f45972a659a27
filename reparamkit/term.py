"""term: what the algebra computes with: an operator, and the book of where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from reparamkit.errors import Refusal
from reparamkit.operators import Operator, Scale


@dataclass(frozen=True, slots=True)
class Like:
    """What the module that holds a merged operator takes over from its sources.

    Attributes:
        dtype: of the weights.
        device: of the weights.
        weight_grad: whether any source weight requires a gradient.
        bias_grad: whether any source bias, or what shifts like one, requires a gradient.
        channels_last: whether a source weight was stored channels-last.
        decides: whether the dtype of the result depends on it (false for batch norm).
    """

    dtype: torch.dtype
    device: torch.device
    weight_grad: bool = False
    bias_grad: bool = False
    channels_last: bool = False
    decides: bool = True

    def joined(self, other: Like) -> Like | Refusal:
        """Both sources in one module."""
        if self.device != other.device:
            return Refusal("RK506", f"{self.device} and {other.device}")
        if self.decides and other.decides and self.dtype != other.dtype:
            return Refusal("RK503", f"one branch is {self.dtype}, the other {other.dtype}")
        main = self if self.decides or not other.decides else other
        return replace(
            main,
            weight_grad=self.weight_grad or other.weight_grad,
            bias_grad=self.bias_grad or other.bias_grad,
            channels_last=self.channels_last or other.channels_last,
        )


@dataclass(frozen=True, slots=True)
class Term:
    """An operator, the rules that made it, and what its module will look like.

    Attributes:
        op: the operator.
        rules: ids of the rules used so far.
        like: `None` while no parameter is involved.
        rounding: how far, relatively, what it replaces may be off because a forward computed numbers in its dtype.
    """

    op: Operator
    rules: frozenset[str] = frozenset()
    like: Like | None = None
    rounding: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it is the identity, with no parameter of its own."""
        return isinstance(self.op, Scale) and self.like is None and self.op.is_identity

    def by(self, rules: frozenset[str]) -> Term:
        """The same operator, made with these rules as well."""
        return self if rules <= self.rules else Term(self.op, self.rules | rules, self.like, self.rounding)


def joint_like(*terms: Term) -> Like | Refusal | None:
    """What the module takes over that holds all of these; `None` while none of them has a parameter."""
    likes = [t.like for t in terms if t.like is not None]
    joined: Like | Refusal | None = likes[0] if likes else None
    for like in likes[1:]:
        assert isinstance(joined, Like)
        joined = joined.joined(like)
        if isinstance(joined, Refusal):
            return joined
    return joined
