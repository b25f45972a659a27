"""Policy "measured": the clock is asked about what differs, and only where neither way is plainly less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from reparamkit import ModelError, policy, stopwatch
from reparamkit.job import Job
from reparamkit.testing import randomize
from tests.blocks import RepVGGBlock
from tests.helpers import assert_same, branches, counts, inputs

X = inputs((2, 8, 12, 10))
CASES: dict[str, Callable[[], nn.Module]] = {
    "a depthwise and a pointwise branch": lambda: branches(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)),
    "two dilations": lambda: branches(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=3, dilation=3)),
    "a chain through few channels": lambda: nn.Sequential(nn.Conv2d(8, 2, 1, bias=False), nn.Conv2d(2, 8, 3)),
    "two kernels in a row": lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)),
    "a pooled branch": lambda: branches(nn.Conv2d(8, 8, 1), nn.AvgPool2d(5, 1, 2)),
}


@pytest.mark.parametrize("verdict", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_clock_decides(case: str, verdict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[Job, ...], tuple[Job, ...]]] = []

    def faster(new: Any, old: Any) -> bool:
        asked.append((new, old))
        return verdict

    monkeypatch.setattr(policy, "faster", faster)
    model = randomize(CASES[case]()).double()
    merged = reparamkit.apply(model, policy="measured", example_inputs=X)
    assert_same(model, merged, tuple(X.shape), (1, 8, 9, 9))
    assert asked
    assert counts(merged)[0] == (1 if verdict else counts(model)[0])
    for job in {job for question in asked for side in question for job in side}:
        assert job.batch == 2
        assert job.dtype == torch.float64
        stopwatch._runnable(job)()


def test_the_jobs_are_the_layers_geometries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[Job, ...], tuple[Job, ...]]] = []
    monkeypatch.setattr(policy, "faster", lambda new, old: asked.append((new, old)))
    reparamkit.plan(CASES["a depthwise and a pointwise branch"]().double().eval(), policy="measured", example_inputs=X)
    [(new, old)] = asked
    assert [(j.kind, j.weight, j.size, j.groups) for j in new] == [("conv", (8, 8, 3, 3), (12, 10), 1)]
    assert sorted((j.kind, j.weight, j.size, j.groups) for j in old) == [
        ("add", (), (12, 10), 1),
        ("add", (), (12, 10), 1),  # Python's `sum` starts with 0 + x
        ("conv", (8, 1, 3, 3), (12, 10), 8),
        ("conv", (8, 8, 1, 1), (12, 10), 1),
    ]


def test_the_job_of_a_transposed_convolution() -> None:
    from reparamkit.job import Bench
    from reparamkit.merge import Like
    from reparamkit.operators.conv_transpose import conv_transpose

    layer = nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2)
    geometry = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
    op = conv_transpose(layer.weight.detach().double(), None, 2, **geometry)
    made = Bench((1, 8, 6, 6), Like(torch.float32, torch.device("cpu"))).job_of(op, 4.0, 4)
    assert made is not None
    assert (made.kind, made.channels, made.size, made.weight) == ("transposed", 8, (6, 6), tuple(layer.weight.shape))
    assert stopwatch._runnable(made)().shape == layer(torch.ones(1, 8, 6, 6)).shape


def test_where_one_way_is_plainly_less_work_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(new: Any, old: Any) -> bool:
        raise AssertionError("timed")

    monkeypatch.setattr(policy, "faster", faster)
    model = randomize(nn.Sequential(RepVGGBlock(8, 8), RepVGGBlock(8, 8))).double()
    assert counts(reparamkit.apply(model, policy="measured", example_inputs=X)) == (2, 0)


def test_where_the_clock_cannot_tell_it_is_what_costs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "faster", lambda new, old: None)
    model = randomize(CASES["a depthwise and a pointwise branch"]()).double()
    assert counts(reparamkit.apply(model, policy="measured", example_inputs=X))[0] == 2


def test_without_an_example_there_is_nothing_to_time() -> None:
    with pytest.raises(ModelError, match=r"RK104.*measured.*example_inputs"):
        reparamkit.plan(RepVGGBlock().eval(), policy="measured")


def job(weight: int) -> Job:
    return Job("conv", 1, 4, (5, 5), torch.float32, torch.device("cpu"), False, (4, 4, weight, weight), (1, 1))


@pytest.mark.parametrize(("new", "old", "verdict"), [(1.0, 2.0, True), (2.0, 1.0, False), (1.0, 1.0, None)])
def test_a_question_is_answered_once(
    new: float, old: float, verdict: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of our own: each round one side takes `new`, the other `old`, give or take a tenth."""
    runs: list[int] = []
    first, second = object(), object()
    cost = {id(first): new, id(second): old}

    def clock(side: list[Any], calls: int) -> float:
        runs.append(calls)
        return cost[id(side[0])] * (1 + 0.1 * (len(runs) % 3 - 1))

    monkeypatch.setattr(stopwatch, "_time", clock)
    monkeypatch.setattr(stopwatch, "_runnable", lambda j: first if j.weight[2] == 3 else second)
    stopwatch._decided.cache_clear()
    common = job(7)
    assert stopwatch.faster((common, job(3)), (job(5), common)) is verdict
    timed = len(runs)
    assert stopwatch.faster((job(3),), (job(5),)) is verdict
    assert len(runs) == timed, "what both have in common is left out, so this is the same question"
    stopwatch._decided.cache_clear()
    assert (timed < 2 * stopwatch.ROUNDS) is (verdict is not None)
