"""Stretches of a model that are alike are searched once; what is not alike in what counts is searched by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.decide import chooser
from reparamkit.decide.chooser import Chooser
from reparamkit.testing import randomize
from tests.blocks import RepVGGBlock
from tests.fuzz.writer import program
from tests.helpers import assert_same, convert, convert_as_is, counts

BLOCKS = 6


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was searched, one entry a search."""
    found: list[Any] = []
    search = Chooser._feasible_regions

    def counted(self: Chooser, value: Any, origin: Any) -> Any:
        found.append(value.where)
        return search(self, value, origin)

    monkeypatch.setattr(Chooser, "_feasible_regions", counted)
    return found


def _chain() -> nn.Sequential:
    return nn.Sequential(*[RepVGGBlock(4, 4) for _ in range(BLOCKS)])


def test_alike_blocks_are_searched_once_and_keep_their_own_numbers(searches: list[Any]) -> None:
    converted, report = convert(_chain())
    assert counts(converted) == (BLOCKS, 0)
    assert len(report.merged) == BLOCKS
    assert len(searches) == 1


class _Normed(nn.Module):
    """A norm in front of a padded convolution: its shift may not cross the border, its scale may."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(self.norm(x)))


def _without_shift(norm: nn.Module) -> None:
    with torch.no_grad():
        norm.bias.zero_()  # type: ignore[operator, union-attr]
        norm.running_mean.zero_()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("shiftless", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_numbers_that_forbid_what_the_first_block_did(shiftless: tuple[int, ...]) -> None:
    model = nn.Sequential(*[_Normed() for _ in range(3)])
    randomize(model, 3).double()
    for place in shiftless:
        _without_shift(model[place].norm)  # type: ignore[arg-type]
    converted, report = convert_as_is(model)
    left = [place for place in range(3) if isinstance(converted[place].norm, nn.BatchNorm2d)]  # type: ignore[index]
    assert left == [place for place in range(3) if place not in shiftless]
    assert {refusal.where for refusal in report.refused} == {f"{place}.conv" for place in left}


class _Read(nn.Module):
    """Two branches; the sum of them, and perhaps one of them as well, is returned."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), both

    def forward(self, x: Tensor) -> Tensor:
        b = self.b(x)
        y = torch.relu(self.a(x) + b)
        return y + b.exp() if self.both else y


def test_a_branch_that_somebody_else_reads_is_not_alike(searches: list[Any]) -> None:
    model = nn.Sequential(_Read(False), _Read(True), _Read(False), _Read(True))
    converted, report = convert(model)
    assert counts(converted) == (6, 0)
    assert len(report.merged) == 2
    assert [r.where for r in report.refused if r.code == "RK305"] == ["1.add", "3.add"]
    assert len(searches) >= 3


@pytest.mark.parametrize("model", ["alike", "mixed", *range(40)])
def test_plans_are_the_same_as_without_looking_for_what_is_alike(
    model: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _made(model)
    quick = _planned(made)
    monkeypatch.setattr(chooser, "outline", lambda *_: None)
    assert _planned(made) == quick


def _made(model: str | int) -> nn.Module:
    if isinstance(model, str):
        mixed = [_Normed(), _Read(False), _Read(True)] if model == "mixed" else []
        return randomize(nn.Sequential(*_chain(), *mixed, *_chain(), *mixed), 5).double().eval()
    return next(made for seed in range(9000 + 10 * model, 9999) if (made := _generated(seed)) is not None)


def _generated(seed: int) -> nn.Module | None:
    """The model of a seed, twice: in the second half everything is alike something in the first."""
    try:
        return nn.Sequential(program(seed).build(), program(seed).build())
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None  # some of them cannot be built


def _planned(model: nn.Module) -> str:
    try:
        return json.dumps(reparamkit.plan(model, policy="always").to_dict(), default=str)
    except reparamkit.ReparamError as error:
        return str(error)


def test_what_is_timed_is_searched_each_time(searches: list[Any]) -> None:
    model = randomize(_chain(), 0).double()
    converted = reparamkit.apply(model, policy="measured", example_inputs=torch.randn(1, 4, 6, 6, dtype=torch.float64))
    assert_same(model, converted, (2, 4, 7, 6))
    assert len(searches) == BLOCKS
