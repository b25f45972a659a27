"""What must hold for every model, however it is written: the conversion is exact, or it leaves the model alone."""

from __future__ import annotations

import copy
import warnings
from collections import Counter

import torch
from torch import nn

import reparamkit
from reparamkit import Report
from reparamkit.paths import module_at
from tests.fuzz.program import Program
from tests.fuzz.rounding import FACTOR, excess, weights_gap
from tests.fuzz.runs import Ran, gap, gradient, inputs, is_bounded, runs
from tests.fuzz.setting import EVERY_RULE, Setting, setting_of
from tests.helpers import assert_untouched, snapshot

RTOL = 1e-9


class Finding(AssertionError):
    """The conversion of a program went wrong; the first word says how."""

    @property
    def kind(self) -> str:
        """Its first word."""
        return str(self).split(maxsplit=1)[0]


class Unfit(Exception):
    """The program itself does not run, so nothing can be said about its conversion."""


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
        setting = setting_of(program.seed)
        model, wanted = _ran_eagerly(program, setting.dtype)
        converted, report = _converted(model, setting, program.nd)
        got = runs(converted, inputs(program.nd, setting.dtype))
        _raise_alike(wanted, got, report)
        if setting.dtype == torch.float64:
            _compare(wanted, got, report)
            _gradients(model, converted, program.nd, report, counted)
        else:
            _rounding(model, converted, (wanted, got), program.nd, setting, report, counted)
        _kept(model, converted, report)
        if _is_settled(setting, report):
            _again(converted, setting, program.nd)
    _count(counted, setting, report)


def _count(counted: Counter[str], setting: Setting, report: Report) -> None:
    counted["models"] += 1
    counted["merged"] += bool(report.merged)
    counted["merges"] += len(report.merged)
    counted["rewritten"] += any(m.kind == "rewrite" for m in report.merged)
    counted["traced"] += not report.untraceable
    counted[str(setting.dtype).removeprefix("torch.")] += 1
    counted["example"] += setting.example != "none"


def _ran_eagerly(program: Program, dtype: torch.dtype) -> tuple[nn.Module, list[Ran]]:
    try:
        model = program.build().to(dtype)
        wanted = runs(model, inputs(program.nd, dtype))
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
    if isinstance(wanted[0].outputs[0], Exception) or not all(map(is_bounded, wanted)):
        raise Unfit("it raises, or its numbers grow out of hand")
    return model, wanted


def _converted(model: nn.Module, setting: Setting, nd: int) -> tuple[nn.Module, Report]:
    example = inputs(nd, setting.dtype)[0][0]
    options = setting.all_options(example)
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
    if not torch.equal(example, inputs(nd, setting.dtype)[0][0]):
        raise Finding("touched: the example inputs")
    refused = [r for r in report.refused if r.code.startswith("RK5")]
    if len(plan.edits) > len(report.merged) and not refused:
        raise Finding(f"planned {len(plan.edits)} merges, made {len(report.merged)}\n{report}")
    return converted, report


def _raise_alike(wanted: list[Ran], got: list[Ran], report: Report) -> None:
    for theirs, ours in zip(wanted, got, strict=True):
        for a, b in zip(theirs.outputs, ours.outputs, strict=True):
            if isinstance(a, Exception) != isinstance(b, Exception):
                raise Finding(f"raises: {a!r} became {b!r}\n{report}")


def _compare(wanted: list[Ran], got: list[Ran], report: Report) -> None:
    for theirs, ours in zip(wanted, got, strict=True):
        if not (error := gap(theirs.outputs, ours.outputs)) <= RTOL:
            raise Finding(f"wrong by {error:.3g}\n{report}")
        if not (error := gap(theirs.given, ours.given)) <= RTOL:
            raise Finding(f"input is changed differently, by {error:.3g}\n{report}")


def _gradients(model: nn.Module, converted: nn.Module, nd: int, report: Report, counted: Counter[str]) -> None:
    """The gradient with respect to the input, where the original has one (what it does in place may forbid it)."""
    x = inputs(nd)[0][0]
    wanted = gradient(model, x)
    if isinstance(wanted, Exception):
        return
    got = gradient(converted, x)
    if isinstance(got, Exception):
        raise Finding(f"gradient raises {got!r}\n{report}")
    if not (error := gap(wanted, got)) <= RTOL:
        raise Finding(f"gradient is wrong by {error:.3g}\n{report}")
    counted["gradients"] += 1


def _rounding(
    model: nn.Module,
    converted: nn.Module,
    ran: tuple[list[Ran], list[Ran]],
    nd: int,
    setting: Setting,
    report: Report,
    counted: Counter[str],
) -> None:
    """A model of low precision: merged as it is in float64 and rounded once, and as near to the truth as before."""
    wanted, got = ran
    if any(gap(a.outputs, b.outputs) == float("inf") for a, b in zip(wanted, got, strict=True)):
        raise Finding(f"form: the outputs are built differently, or not finite\n{report}")
    error = weights_gap(converted, report, model, setting, nd)
    if not error <= FACTOR * torch.finfo(setting.dtype).eps:
        raise Finding(f"rounded: weights are {error:.3g} from those of the conversion in float64\n{report}")
    counted["bitwise"] += bool(report.merged) and error == 0
    if found := excess(model, nd, setting.dtype, wanted, got):
        raise Finding(f"wrong: {found}\n{report}")
    counted["unjudged"] += found == ""


def _kept(model: nn.Module, converted: nn.Module, report: Report) -> None:
    """What no merge names is bitwise what it was."""
    before, after = model.state_dict(), converted.state_dict()
    merged = {id(model.get_submodule(m.path)) for m in report.merged if module_at(model, m.path) is not None}
    for key in before.keys() & after.keys():
        owner = key.rpartition(".")[0]
        named = id(model.get_submodule(owner)) in merged  # under whichever of its names
        if not named and not torch.equal(before[key], after[key]):
            raise Finding(f"state: {key} changed, and no merge names it\n{report}")


def _is_settled(setting: Setting, report: Report) -> bool:
    """Whether nothing may be left to merge.

    Four things leave something: in-place operations, which the first conversion may do away with; a number of axes
    that nothing told before; copies of shared layers; padding that is cropped away again, which is nothing once it is
    merged with what is in front of it.
    """
    every_rule = setting.options.get("recipe") is EVERY_RULE
    unsettled = any(r.code in ("RK203", "RK309") or "the inner one crops" in r.reason for r in report.refused)
    return not every_rule and not unsettled


def _again(converted: nn.Module, setting: Setting, nd: int) -> None:
    options = {**setting.all_options(inputs(nd, setting.dtype)[0][0]), "inplace": False}
    try:
        twice, second = reparamkit.apply(converted, return_report=True, **options)
    except Exception as error:
        raise Finding(f"second conversion raises {type(error).__name__}: {error}") from error
    if second.merged or list(twice.state_dict()) != list(converted.state_dict()):
        raise Finding(f"again: {second}")
