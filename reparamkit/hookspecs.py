"""Everything a plugin can do. This file is the plugin author's manual; a plugin implements what it needs.

A plugin is a module (or package) named by an entry point of the group ``reparamkit``:

    [project.entry-points.reparamkit]
    hello = "reparamkit_hello"

Every hook takes no arguments and returns declarations; reparamkit calls it once and does the dispatching.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reparamkit.branch import BranchOp
    from reparamkit.decide.policy import Policy
    from reparamkit.rule import Rule

hookspec = pluggy.HookspecMarker("reparamkit")
hookimpl = pluggy.HookimplMarker("reparamkit")


@hookspec
def reparamkit_rules() -> Iterable[Rule]:  # type: ignore[empty-body]
    """Return the rules this plugin adds: declarations, of the kinds in `reparamkit.rule`.

    Their ids start with the plugin's name (``hello/channel_gain``). Called once a registry.
    """


@hookspec
def reparamkit_policies() -> Iterable[Policy]:  # type: ignore[empty-body]
    """Return policies that a recipe may select by name (``policy: hello/smallest``)."""


@hookspec
def reparamkit_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Return folders of recipe YAML files; their recipes are called ``hello:name``."""


@hookspec
def reparamkit_branches() -> Iterable[BranchOp]:  # type: ignore[empty-body]
    """Return operations that recipes may put into the branches of an ``expand`` section, by their name.

    An operation that no built-in rule reads needs one of `reparamkit_rules` as well: what it is in eval mode.
    """
