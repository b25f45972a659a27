"""The training side: plain layers get branches, `reparamkit.apply` takes them away exactly.

    recipe ─┐
    model ──┴► candidates ─► place ─► build ─► preserve ─► splice ─► the same model, with branches
               which layers  legal    modules  float64

| file         | idea                                                                        |
|--------------|-----------------------------------------------------------------------------|
| `grammar`    | the recipe's text as `Branch` values; `read` refuses what can never collapse |
| `ops`        | the built-in operations; `reparamkit.branch` says what one is               |
| `placed`     | branches as values                                                          |
| `layer`      | the geometry of a plain layer                                               |
| `plain`      | a plain layer run with given numbers                                        |
| `place`      | a branch beside a layer, all numbers settled, borders exact                 |
| `block`      | the modules that are trained                                                |
| `online`     | branches that are trained through their merged kernel                       |
| `preserve`   | one convolution (`carrier`) takes up what the others add                    |
| `fold`       | what a block is, by the rules that `apply` merges by                        |
| `statistics` | batch norms that start from real data                                       |
| `groups`     | parameters by branch, for an optimizer                                      |
"""

from __future__ import annotations

from reparamkit.branch import BranchOp, Options, Place
from reparamkit.expand.block import Branches, Expanded
from reparamkit.expand.entry import expand
from reparamkit.expand.groups import parameter_groups
from reparamkit.expand.report import ExpandedLayer, Expansion

__all__ = [
    "BranchOp",
    "Branches",
    "Expanded",
    "ExpandedLayer",
    "Expansion",
    "Options",
    "Place",
    "expand",
    "parameter_groups",
]
