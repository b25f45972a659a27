"""`sum` and `pad`: what is about other operations. `sum` adds branches inside a branch, `pad` says where the border is.

Neither has a module built here: a sum is built from its branches, and a border goes where `pad` stands.
"""

from __future__ import annotations

from typing import NoReturn

from reparamkit.branch import BranchOp, Options, Place
from reparamkit.expand.ops.conv import MODES

SUM, PAD = "sum", "pad"


def _never(options: Options, place: Place) -> NoReturn:
    raise AssertionError("sum and pad are built by reparamkit.expand.build")


OPS = (
    BranchOp(SUM, _never, "the sum of the branches below it", taps="k", mixes=True, strides=True, pads=MODES),
    BranchOp(PAD, _never, "pad here, with what the operations in front make of zero", axes=(1, 2, 3)),
)
