"""Policy "measured": the clock is asked about what differs, and only where neither way is plainly less work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from reparamkit import ModelError
from reparamkit.testing import randomize
from reparamkit.timing import stopwatch
from reparamkit.timing.job import Job
from reparamkit.timing.rig import Rig
from reparamkit.timing.stopwatch import Stopwatch
from reparamkit.timing.timed import Timed, Timing, digest
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

    def decided(new: Any, old: Any, engine: str, seconds: float) -> Timed:
        asked.append((new, old))
        return Timed(new, old, verdict)

    monkeypatch.setattr(stopwatch, "_known", {})
    monkeypatch.setattr(stopwatch, "_decided", decided)
    model = randomize(CASES[case]()).double()
    merged = reparamkit.apply(model, policy="measured", example_inputs=X)
    assert_same(model, merged, tuple(X.shape), (1, 8, 9, 9))
    assert asked
    assert counts(merged)[0] == (1 if verdict else counts(model)[0])
    for job in {job for question in asked for side in question for job in side}:
        assert job.batch == 2
        assert job.dtype == torch.float64
        rig = Rig([job])
        rig(*rig.inputs)


def test_the_jobs_are_the_layers_geometries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[Job, ...], tuple[Job, ...]]] = []
    monkeypatch.setattr(Stopwatch, "faster", lambda self, new, old: asked.append((new, old)))
    reparamkit.plan(CASES["a depthwise and a pointwise branch"]().double().eval(), policy="measured", example_inputs=X)
    [(new, old)] = asked
    assert [(j.kind, j.weight, j.size, j.groups) for j in new] == [("conv", (8, 8, 3, 3), (12, 10), 1)]
    assert sorted((j.kind, j.weight, j.size, j.groups) for j in old) == [
        ("add", (), (12, 10), 1),
        ("add", (), (12, 10), 1),  # Python's `sum` starts with 0 + x
        ("conv", (8, 1, 3, 3), (12, 10), 8),
        ("conv", (8, 8, 1, 1), (12, 10), 1),
    ]


def test_a_layer_behind_one_that_does_not_pad_is_timed_on_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[Job, ...], tuple[Job, ...]]] = []
    monkeypatch.setattr(Stopwatch, "faster", lambda self, new, old: asked.append((new, old)))
    reparamkit.plan(CASES["two kernels in a row"]().double().eval(), policy="measured", example_inputs=X)
    [(new, old)] = asked
    assert [(job.weight[2:], job.size) for job in new] == [((5, 5), (12, 10))]
    assert sorted((job.weight[2:], job.size) for job in old) == [((3, 3), (10, 8)), ((3, 3), (12, 10))]


def test_the_job_of_a_transposed_convolution() -> None:
    from reparamkit.operators.conv_transpose import conv_transpose
    from reparamkit.term import Like
    from reparamkit.timing.job import Bench

    layer = nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2)
    geometry = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
    op = conv_transpose(layer.weight.detach().double(), None, 2, **geometry)
    made = Bench(1, (6, 6), Like(torch.float32, torch.device("cpu"))).job_of(op, 4)
    assert made is not None
    assert (made.kind, made.channels, made.size, made.weight) == ("transposed", 8, (6, 6), tuple(layer.weight.shape))
    rig = Rig([made])
    assert rig(*rig.inputs)[0].shape == layer(torch.ones(1, 8, 6, 6)).shape


def test_where_one_way_is_plainly_less_work_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(self: Stopwatch, new: Any, old: Any) -> bool:
        raise AssertionError("timed")

    monkeypatch.setattr(Stopwatch, "faster", faster)
    model = randomize(nn.Sequential(RepVGGBlock(8, 8), RepVGGBlock(8, 8))).double()
    assert counts(reparamkit.apply(model, policy="measured", example_inputs=X)) == (2, 0)


def test_where_the_clock_cannot_tell_it_is_what_costs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "faster", lambda self, new, old: None)
    model = randomize(CASES["a depthwise and a pointwise branch"]()).double()
    assert counts(reparamkit.apply(model, policy="measured", example_inputs=X))[0] == 2


def test_without_an_example_there_is_nothing_to_time() -> None:
    with pytest.raises(ModelError, match=r"RK104.*measured.*example_inputs"):
        reparamkit.plan(RepVGGBlock().eval(), policy="measured")


def job(weight: int) -> Job:
    return Job("conv", 1, 4, (5, 5), torch.float32, torch.device("cpu"), False, (4, 4, weight, weight), (1, 1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A clock of our own: a kernel of 3 takes a second, one of 5 two, one of 7 one, give or take a tenth."""
    runs: list[str] = []
    cost = {3: 1.0, 5: 2.0, 7: 1.0}

    def timed(side: str, calls: int) -> float:
        runs.append(side)
        return cost[int(side)] * (1 + 0.1 * (len(runs) % 3 - 1))

    monkeypatch.setattr(stopwatch, "_known", {})
    monkeypatch.setattr(stopwatch, "_time", timed)
    monkeypatch.setattr(stopwatch, "_running", lambda jobs, engine: str(jobs[0].weight[2]))
    return runs


@pytest.mark.parametrize(("new", "old", "verdict"), [(3, 5, True), (5, 3, False), (3, 7, None)])
def test_a_question_is_answered_once(new: int, old: int, verdict: bool | None, clock: list[str]) -> None:
    watch, common = Stopwatch(Timing()), job(9)
    assert watch.faster((common, job(new)), (job(old), common)) is verdict
    timed = len(clock)
    assert watch.faster((job(new),), (job(old),)) is verdict
    assert Stopwatch(Timing()).faster((job(new),), (job(old),)) is verdict
    assert len(clock) == timed, "what both have in common is left out, so this is the same question"
    assert (timed < 2 * stopwatch.ROUNDS) is (verdict is not None)
    [told] = watch.timings.questions
    assert told.ratio is not None
    assert (told.ratio[2] < 1, told.ratio[0] > 1) == (verdict is True, verdict is False)


def test_when_the_seconds_are_used_up_nothing_more_is_asked(clock: list[str]) -> None:
    watch = Stopwatch(Timing(seconds=1e-9))
    assert watch.faster((job(3),), (job(5),)) is True, "the first question is answered, with as few rounds as will do"
    assert watch.timings.questions[0].rounds == stopwatch.FEWEST_WHEN_PLAIN
    timed = len(clock)
    assert watch.faster((job(5),), (job(7),)) is None
    assert watch.faster((job(5),), (job(7),)) is None
    assert len(clock) == timed
    assert watch.timings.unasked == 1
    assert watch.faster((job(3),), (job(5),)) is True, "what is known costs nothing"
    assert "no time left for 1 more" in str(watch.timings)


def test_answers_that_are_given_are_taken_and_nothing_else_is_asked(clock: list[str]) -> None:
    watch = Stopwatch(Timing(answers={digest((job(3),), (job(5),)): False}))
    assert watch.faster((job(3),), (job(5),)) is False
    assert watch.faster((job(5),), (job(7),)) is None
    assert not clock


def test_layers_are_timed_at_the_size_they_have_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a pooling, an activation of a module and one of the forward's, and a stride."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, stride=2)
            self.pool = nn.MaxPool2d(2)
            self.after_pool = CASES["a depthwise and a pointwise branch"]()
            self.down = nn.Conv2d(8, 8, 2, stride=2)
            self.after_down = CASES["two dilations"]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.after_pool(self.pool(torch.relu(self.first(x))))
            return self.after_down(torch.relu(self.down(torch.relu(x))))  # type: ignore[no-any-return]

    sizes: set[tuple[int, ...]] = set()

    def faster(self: Stopwatch, new: Any, old: Any) -> None:
        sizes.update(job.size for job in (*new, *old))

    monkeypatch.setattr(Stopwatch, "faster", faster)
    reparamkit.plan(Deep().eval(), policy="measured", example_inputs=torch.randn(1, 3, 65, 49))
    assert sizes == {(16, 12), (8, 6)}


def test_linear_layers_are_timed_on_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []
    monkeypatch.setattr(Stopwatch, "faster", lambda self, new, old: asked.extend((*new, *old)))
    model = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8)).eval()
    reparamkit.plan(model, policy="measured", example_inputs=torch.randn(3, 5, 8))
    assert {(job.batch, job.size) for job in asked} == {(15, ())}
    assert {job.weight for job in asked} == {(8, 8), (2, 8), (8, 2)}


def test_a_sum_in_a_rig_reads_what_was_computed() -> None:
    plain = replace(job(3), padding=((1, 1), (1, 1)), dilation=(1, 1))
    rig = Rig([replace(plain, kind="add", weight=(), padding=()), plain, replace(plain, groups=2, weight=(4, 2, 3, 3))])
    [result] = rig(*rig.inputs)
    torch.testing.assert_close(result[0, 0], 6 * nn.functional.avg_pool2d(torch.ones(1, 1, 5, 5), 3, 1, 1)[0, 0] * 9)


@pytest.mark.parametrize("engine", ["eager", "compile", "onnxruntime"])
def test_every_engine_answers(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    monkeypatch.setattr(stopwatch, "_known", {})
    monkeypatch.setattr(stopwatch, "SECONDS", 1e-6)
    model = randomize(CASES["a depthwise and a pointwise branch"]())
    policy = reparamkit.measured(engine, seconds=0.1)
    made, report = reparamkit.apply(model, policy=policy, example_inputs=X.float(), return_report=True)
    assert report.timed is not None
    assert report.timed.engine == engine
    [told] = report.timed.questions
    assert counts(made)[0] == (1 if told.verdict else 2)
    assert f"timed in {engine}" in str(report)
    assert report.to_dict()["timed"] == report.timed.to_dict()


def test_an_engine_that_is_not_known() -> None:
    with pytest.raises(ModelError, match=r"RK104.*'tpu'.*onnxruntime"):
        reparamkit.measured("tpu")
    with pytest.raises(reparamkit.PluginError, match="measured_compile"):
        reparamkit.plan(RepVGGBlock().eval(), policy="measured_tpu", example_inputs=X)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_checkpoint_is_loaded_as_it_was_decided(
    verdict: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """On another machine, or another day, the clock would say something else."""
    pytest.importorskip("safetensors")

    def says(word: bool) -> None:
        monkeypatch.setattr(stopwatch, "_known", {})
        monkeypatch.setattr(stopwatch, "_decided", lambda new, old, engine, seconds: Timed(new, old, word))

    says(verdict)
    make = CASES["a depthwise and a pointwise branch"]
    model = randomize(make()).double()
    plan = reparamkit.plan(model, policy="measured", example_inputs=X)
    made, report = reparamkit.apply(model, policy="measured", example_inputs=X, return_report=True)
    reparamkit.save(made, tmp_path / "deploy.safetensors", report)
    says(not verdict)
    again = reparamkit.load(make().double().eval(), tmp_path / "deploy.safetensors")
    assert torch.equal(again(X), made(X))
    assert torch.equal(plan.apply_to(model)(X), made(X))
    averaged = reparamkit.convert_state_dict(
        make().double().eval(), model.state_dict(), like=tmp_path / "deploy.safetensors"
    )
    assert averaged.keys() == made.state_dict().keys()


@pytest.mark.parametrize("text", ["[", "[]", '{"a": 2}', '{"a": []}'])
def test_a_checkpoint_whose_timings_are_none(text: str) -> None:
    from reparamkit.checkpoint.file import Stored
    from reparamkit.checkpoint.provenance import timed_in

    with pytest.raises(reparamkit.CheckpointError, match=r"RK910.*timings"):
        timed_in(Stored(Path("a.safetensors"), {}, {"reparamkit.timed": text}))
