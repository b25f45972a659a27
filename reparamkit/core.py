"""core: the built-in rules and operations of branches, a plugin like any other, handed over through the same hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.hookspecs import hookimpl
from reparamkit.rules import CORE

if TYPE_CHECKING:
    from reparamkit.branch import BranchOp
    from reparamkit.rule import Rule


@hookimpl
def reparamkit_rules() -> tuple[Rule, ...]:
    """The built-in rules."""
    return CORE


@hookimpl
def reparamkit_branches() -> tuple[BranchOp, ...]:
    """The built-in operations of branches."""
    from reparamkit.expand.ops import CORE as OPS  # only here: expanding a model begins with the registry

    return OPS
