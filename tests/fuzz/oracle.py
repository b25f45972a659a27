"""What must hold for every model, however it is written: the conversion is exact, or it leaves the model alone."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import Report
from tests.fuzz.program import Program
from tests.fuzz.writer import CHANNELS, LARGEST, SIZES
from tests.helpers import assert_untouched, snapshot

RTOL = 1e-9
_EVERYWHERE = {"match": {"structure": "any"}, "rules": ["core/*", "unshare"], "optional": True}
_EVERY_RULE = {"version": 1, "name": "every_rule", "blocks": [_EVERYWHERE]}
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"policy": "always"},
    {"inplace": True},
    {"policy": "always", "inplace": True},
    {"policy": "always", "recipe": _EVERY_RULE},
    {"recipe": "fold_bn"},
)


class Finding(AssertionError):
    """The conversion of a program went wrong; the first word says how."""

    @property
    def kind(self) -> str:
        """Its first word."""
        return str(self).split(maxsplit=1)[0]


class Unfit(Exception):
    """The program itself does not run, so nothing can be said about its conversion."""


@dataclass(frozen=True)
class Ran:
    """What two calls of a model gave, on one size.

    Attributes:
        outputs: of each call; an exception where it raised one.
        given: the inputs afterwards.
        buffers: of the model afterwards.
    """

    outputs: tuple[Any, ...]
    given: tuple[Tensor, ...]
    buffers: dict[str, Tensor] = field(repr=False)


def check(program: Program, seen: Counter[str] | None = None) -> None:
    """Convert the program's model and compare.

    Args:
        program: what is looked at.
        seen: counts what happened.

    Raises:
        Finding: what went wrong.
        Unfit: the program does not run.
    """
    counted = Counter() if seen is None else seen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, wanted = _ran_eagerly(program)
        options = OPTIONS[program.seed % len(OPTIONS)]
        converted, report = _converted(model, options)
        counted["merged"] += bool(report.merged)
        counted["merges"] += len(report.merged)
        counted["rewritten"] += any(m.kind == "rewrite" for m in report.merged)
        counted["traced"] += not report.untraceable
        _compare(wanted, _runs(converted, program.nd), report)
        _kept(model, converted, report)
        if _is_settled(options, report):
            _again(converted, options)
    counted["models"] += 1


def _ran_eagerly(program: Program) -> tuple[nn.Module, list[Ran]]:
    try:
        model = program.build()
        wanted = _runs(model, program.nd)
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
    if isinstance(wanted[0].outputs[0], Exception) or not all(map(_bounded, wanted)):
        raise Unfit("it raises, or its numbers grow out of hand")
    return model, wanted


def _bounded(ran: Ran) -> bool:
    tensors = [t for t in (*_tensors(ran.outputs), *ran.given) if t.is_floating_point() and t.numel()]
    return all(float(t.abs().max()) < LARGEST**2 for t in tensors)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [t for part in parts for t in _tensors(part)]


def _runs(model: nn.Module, nd: int) -> list[Ran]:
    """A copy of the model is called twice on each size: what a call leaves behind shows in the next."""
    return [_run(copy.deepcopy(model), (2, CHANNELS, *size[:nd])) for size in SIZES]


def _run(model: nn.Module, shape: tuple[int, ...]) -> Ran:
    generator = torch.Generator().manual_seed(0)
    given = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    outputs = tuple(_called(model, x) for x in given)
    return Ran(outputs, given, dict(model.named_buffers()))


def _called(model: nn.Module, x: Tensor) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            return copy.deepcopy(model(x))
        except Exception as error:
            return error


def _converted(model: nn.Module, options: dict[str, Any]) -> tuple[nn.Module, Report]:
    given = copy.deepcopy(model) if options.get("inplace") else model
    before = snapshot(model)
    planned = {k: v for k, v in options.items() if k != "inplace"}
    try:
        plan = reparamkit.plan(model, **planned)
        converted, report = reparamkit.apply(given, return_report=True, **options)
    except Exception as error:
        raise Finding(f"exception {type(error).__name__}: {error}") from error
    try:
        assert_untouched(model, before)
    except AssertionError as error:
        raise Finding(f"touched: {error}") from error
    refused = [r for r in report.refused if r.code.startswith("RK5")]
    if len(plan.edits) > len(report.merged) and not refused:
        raise Finding(f"planned {len(plan.edits)} merges, made {len(report.merged)}\n{report}")
    return converted, report


def _compare(wanted: list[Ran], got: list[Ran], report: Report) -> None:
    for theirs, ours in zip(wanted, got, strict=True):
        for a, b in zip(theirs.outputs, ours.outputs, strict=True):
            if isinstance(a, Exception) != isinstance(b, Exception):
                raise Finding(f"raises: {a!r} became {b!r}\n{report}")
        if (error := gap(theirs.outputs, ours.outputs)) > RTOL:
            raise Finding(f"wrong by {error:.3g}\n{report}")
        if (error := gap(theirs.given, ours.given)) > RTOL:
            raise Finding(f"input is changed differently, by {error:.3g}\n{report}")


def gap(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value, or to one; infinite where they are built differently."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        return float((a - b).abs().max() / a.abs().max().clamp_min(1)) if a.numel() else 0.0
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return max((gap(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return max(map(gap, a, b), default=0.0)
    return 0.0 if isinstance(a, Exception) or a == b else float("inf")


def _kept(model: nn.Module, converted: nn.Module, report: Report) -> None:
    """What no merge names is bitwise what it was."""
    before, after = model.state_dict(), converted.state_dict()
    for key in before.keys() & after.keys():
        owner = key.rpartition(".")[0]
        named = any(owner == m.path for m in report.merged)
        if not named and not torch.equal(before[key], after[key]):
            raise Finding(f"state: {key} changed, and no merge names it\n{report}")


def _is_settled(options: dict[str, Any], report: Report) -> bool:
    """Whether nothing may be left to merge.

    Three things leave something: in-place operations, which the first conversion may do away with; a number of axes
    that nothing told before; copies of shared layers.
    """
    return options.get("recipe") is not _EVERY_RULE and not any(r.code in ("RK203", "RK309") for r in report.refused)


def _again(converted: nn.Module, options: dict[str, Any]) -> None:
    try:
        twice, second = reparamkit.apply(converted, return_report=True, **{**options, "inplace": False})
    except Exception as error:
        raise Finding(f"second conversion raises {type(error).__name__}: {error}") from error
    if second.merged or list(twice.state_dict()) != list(converted.state_dict()):
        raise Finding(f"again: {second}")
