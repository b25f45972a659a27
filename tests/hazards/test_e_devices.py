"""Hazards of devices, autocast, quantization."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.lift import leaves, link
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import raises
from tests.helpers import IMAGES, Fn, branches, counts, gap, inputs, places, randomize

META = {
    "factor": lambda m, x: m.a(x) * m.w + m.b(x),
    "shift": lambda m, x: m.a(x) + m.w + m.b(x),
    "behind an activation": lambda m, x: m.b(torch.relu(m.a(x)) * m.w),
    "norm": lambda m, x: nn.functional.batch_norm(m.a(x), m.w.flatten(), m.w.flatten()) + m.b(x),
    "kernel": lambda m, x: m.b(nn.functional.conv2d(m.a(x), m.w[:, None])),
    "matrix": lambda m, x: m.a(x) + m.b(torch.einsum("nchw,dc->ndhw", x, m.w[:, 0].expand(C, C))),
}


@hazard(
    "E9",
    "weights on different devices, or offloaded",
    "refused, or an error where there are no numbers",
    "RK506",
    "RK505",
)
def test_e09_offloaded_weights_are_an_error() -> None:
    model = seq(Block(), same(), bn()).eval()
    model[1].to("meta")
    with raises("RK505", "1.weight") as caught:
        reparamkit.apply(model)
    assert "0." not in str(caught.value)


def test_e09_two_devices_in_one_merge_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize(branches(same(), same(1)))
    there = model.all[1].weight

    def like_of(tensors: Iterable[Tensor], *args: Any) -> Any:
        """There is one device here: of the second layer it is told that it is on another."""
        tensors = list(tensors)
        like: Any = link.like_of(tensors, *args)
        return replace(like, device=torch.device("cuda:1")) if any(t is there for t in tensors) else like

    monkeypatch.setattr(leaves, "like_of", like_of)
    converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (2, 0)
    assert places(report, "RK506") == ["add_1"]
    assert report.refused[0].reason == "cpu and cuda:1"


@pytest.mark.parametrize("run", META.values(), ids=META)
def test_e09_constants_without_numbers_are_refused(run: Any) -> None:
    model = randomize(Fn(run, a=same(), b=same(1)))
    model.w = torch.ones(C, 1, 1, device="meta")
    converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (2, 0)
    assert len(places(report, "RK505")) == 1
    assert not report.merged


class DTensor(Tensor):
    """Named as torch's: what is asked for is the name, so that nothing distributed is imported."""


@hazard("E11", "sharded weights", "error: gather them first", "RK507", "RK605")
def test_e11_shards_are_an_error() -> None:
    model = randomize(seq(Block(), same()))
    model[1].weight = nn.Parameter(model[1].weight.detach().as_subclass(DTensor))
    model[1]._parameters["weight"] = model[1].weight.as_subclass(DTensor)
    with raises("RK507", "1.weight", "get_model_state_dict"):
        reparamkit.apply(model)


def test_e11_wrappers_are_an_error() -> None:
    kind = type("FullyShardedDataParallel", (nn.Sequential,), {})
    with raises("RK605", "0", "0 is a FullyShardedDataParallel"):
        reparamkit.apply(seq(kind(same(), bn())).eval())


@hazard(
    "E12",
    "autocast around the model, or around the conversion",
    "merged outside of it; how far the two differ under it is documented",
)
def test_e12_autocast_around() -> None:
    model = randomize(seq(Block(), same(), bn()))
    x = inputs(IMAGES[0], dtype=torch.float32)
    plain = reparamkit.apply(model)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        under, report = reparamkit.apply(model, example_inputs=x, return_report=True)
        assert gap(model(x).float(), plain(x).float()) < 0.05
    assert report.max_error is not None
    assert report.max_error < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), under.parameters(), strict=True))


def test_e12_the_default_device_does_not_matter() -> None:
    model = randomize(seq(Block(), same(), bn()))
    plain, x = reparamkit.apply(model), inputs(IMAGES[0], dtype=torch.float32)
    with torch.device("meta"):
        under = reparamkit.apply(model, example_inputs=x)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), under.parameters(), strict=True))


def test_e12_nor_does_it_for_what_a_layer_is_expanded_into() -> None:
    model = randomize(seq(Block(), same()))
    with torch.random.fork_rng(), torch.device("meta"):
        expanded = reparamkit.expand(model, "repvgg")
    assert len(list(expanded.parameters())) > len(list(model.parameters()))
    assert {t.device.type for t in (*expanded.parameters(), *expanded.buffers())} == {"cpu"}
    x = inputs(IMAGES[0], dtype=torch.float32)
    with torch.no_grad():
        assert gap(model(x), expanded.eval()(x)) < 1e-5


@hazard(
    "E18",
    "quantization after merging loses accuracy",
    "the HTML report shows how far the range of each weight grew",
)
def test_e18_growth_of_ranges_is_reported() -> None:
    pytest.importorskip("jinja2")
    from reparamkit.html.ranges import ranges

    model = randomize(seq(same(), bn(), nn.ReLU(), same(), bn()))
    with torch.no_grad():
        model[1].running_var[0] = 1e-6
    converted, report = reparamkit.apply(model, return_report=True)
    first, second = ranges(report, model, converted)
    assert (first.path, second.path) == ("0", "3")
    assert first.warns
    assert not second.warns
    assert first.growth > 100


KINDS: dict[str, Any] = {
    "sparse": lambda w: w.to_sparse(),
    "integer": lambda w: (w * 10).to(torch.int8),
    "complex": lambda w: torch.complex(w, w),
    "float8": lambda w: w.to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", KINDS)
def test_e07_weights_that_are_no_plain_numbers(kind: str) -> None:
    model = randomize(branches(same(), same(1)))
    for conv in model.all:
        conv.weight = nn.Parameter(KINDS[kind](conv.weight.detach()), requires_grad=False)
    plan = reparamkit.plan(model)  # `apply` copies, and torch cannot copy all of these
    assert not plan.edits
    assert {r.where for r in plan.refusals if r.code == "RK503"} >= {"all.0", "all.1"}


@hazard(
    "E17",
    "TF32, autotuning, denormals",
    "proofs run in float64, where none of these exist (the test of TF32 needs a GPU and is skipped without one)",
)
def test_e17_denormals_and_matmul_precision_change_no_number() -> None:
    model = randomize(seq(Block(), same(), bn()))
    plain = reparamkit.apply(model)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    flushed = torch.set_flush_denormal(True)
    try:
        under, report = reparamkit.apply(model, return_report=True)
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)
    assert flushed
    assert report.max_error is not None
    assert report.max_error < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), under.parameters(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_e17_tf32() -> None:
    model = randomize(seq(Block(), same(), bn())).cuda()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    x = inputs(IMAGES[0], dtype=torch.float32).cuda()
    converted, report = reparamkit.apply(model, example_inputs=x, return_report=True)
    assert report.max_error is not None
    assert report.max_error < 1e-12
    assert {p.device for p in converted.parameters()} == {x.device}
