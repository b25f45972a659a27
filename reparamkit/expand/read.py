"""read: the `expand` sections of a recipe, checked. Branches that can never collapse are refused when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reparamkit.branch import BranchOp
from reparamkit.errors import RecipeError, Refusal
from reparamkit.expand.grammar import Reader
from reparamkit.expand.layer import Layer
from reparamkit.expand.place import place
from reparamkit.expand.placed import Branch
from reparamkit.recipe.model import Expand
from reparamkit.recipe.problem import DataPath, Problem

_CHANNELS = 16
_LARGE = 31  # taps of a layer beside which any published branch has a place


def branches_of(section: Expand, ops: Mapping[str, BranchOp]) -> tuple[Branch, ...]:
    """The branches of one section.

    Raises:
        RecipeError: RK702, RK704, RK709 or RK710 with the first thing that is wrong.
    """
    branches, problems = read_section(section.branches, section, ops, ("branches",))
    if problems:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problems[0].path).lstrip(".")
        raise RecipeError(problems[0].code, f"{where}: {problems[0].message}")
    return branches


def read_section(
    data: Any, section: Expand, ops: Mapping[str, BranchOp], path: DataPath
) -> tuple[tuple[Branch, ...], list[Problem]]:
    """The branches of one section and everything that is wrong with them.

    Args:
        data: of the key ``branches``.
        section: whose match says which layers they are for.
        ops: operations by name.
        path: where the data stands in its recipe.
    """
    reader = Reader(ops)
    branches = reader.branches(data, path)
    if reader.problems:
        return branches, reader.problems
    layers = list(_examples(section))
    problems = []
    for index, one in enumerate(data):
        for branch in Reader(ops).branches([one], path)[:1]:
            refusal = _nowhere(branch, layers)
            if refusal is not None:
                reason = f"the branch collapses beside no layer of this section ({refusal.code} {refusal.reason})"
                problems.append(Problem("RK710", reason, (*path, index)))
    return branches, problems


def _nowhere(branch: Branch, layers: Sequence[Layer]) -> Refusal | None:
    """Why the branch has no place beside any of these layers; for the first one when the reasons differ."""
    reasons: list[Refusal] = []
    for layer in layers:
        found = place(branch, layer)
        # Whether numbers of channels and groups fit is for the layer to say.
        if not isinstance(found, Refusal) or found.code in ("RK311", "RK315"):
            return None
        reasons.append(found)
    return reasons[0] if reasons else None


def _examples(section: Expand) -> Iterator[Layer]:
    """Layers that the section means, as obliging as they can be."""
    match = section.match
    for nd in match.axes():
        kernel = match.kernel_size if match.kernel_size is not None else _LARGE
        taps = (kernel,) * nd if isinstance(kernel, int) else kernel
        if len(taps) != nd:
            continue
        for groups in _groups_of(match.groups):
            channels = _CHANNELS if groups in (1, _CHANNELS) else _CHANNELS * groups
            dilation = match.dilation if isinstance(match.dilation, int) else 1
            yield Layer(
                channels,
                channels,
                taps,
                (1,) * nd,
                tuple((dilation * (k - 1) // 2, dilation * (k - 1) - dilation * (k - 1) // 2) for k in taps),
                (dilation,) * nd,
                groups,
            )


def _groups_of(wanted: int | str | None) -> tuple[int, ...]:
    if wanted is None:
        return 1, _CHANNELS
    return (_CHANNELS,) if wanted == "depthwise" else (int(wanted),)
