"""Whole models of timm and ultralytics: how far they collapse, and that they compute the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import Report
from tests.helpers import assert_untouched, gap, inputs, snapshot
from tests.zoo import counts, timm_model, ultralytics_model

pytestmark = pytest.mark.zoo


@dataclass(frozen=True)
class Case:
    """A model, the recipe of its family, and how many convolutions may be left."""

    library: str
    name: str
    recipe: str
    convs: int
    exactly: bool = True

    def build(self) -> nn.Module:
        pytest.importorskip(self.library)
        return timm_model(self.name) if self.library == "timm" else ultralytics_model(self.name)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("timm", "repvgg_a0", "repvgg.yaml", 22),
    Case("timm", "mobileone_s0", "mobileone", 43),
    Case("timm", "fastvit_t8", "fastvit", 52, exactly=False),
    Case("timm", "repvit_m1", "repvit", 103, exactly=False),
    Case("timm", "repghostnet_100", "repghost", 95, exactly=False),
    Case("timm", "resnet18", "fold_bn", 20),
    Case("timm", "efficientnet_b0", "fold_bn", 81),
    Case("ultralytics", "yolov8n", "yolo", 64),
    Case("ultralytics", "yolov9t", "yolo", 186),
    Case("ultralytics", "yolo11n", "yolo", 88),
]
YOLOS = [case for case in CASES if case.library == "ultralytics"]
SHAPE = (1, 3, 32, 64)


@cache
def original(case: Case) -> nn.Module:
    return case.build().double()


@cache
def outputs(case: Case) -> object:
    with torch.no_grad():
        return copy.deepcopy(original(case))(inputs(SHAPE))  # ultralytics' heads remember what they have seen


@cache
def converted(case: Case, named: bool) -> tuple[nn.Module, Report]:
    """A copy without a recipe, or the model itself with the recipe of its family."""
    if named:
        model = copy.deepcopy(original(case))
        deploy, report = reparamkit.apply(model, case.recipe, inplace=True, return_report=True)
        assert deploy is model
    else:
        before = snapshot(original(case))
        deploy, report = reparamkit.apply(original(case), return_report=True)
        assert_untouched(original(case), before)
    return deploy, report


@pytest.mark.parametrize("named", [False, True], ids=["auto-copy", "recipe-inplace"])
@pytest.mark.parametrize("case", CASES, ids=str)
class TestEveryModel:
    def test_collapses(self, case: Case, named: bool) -> None:
        convs, norms = counts(converted(case, named)[0])
        assert norms == 0
        assert convs == case.convs if case.exactly else convs <= case.convs

    def test_computes_the_same(self, case: Case, named: bool) -> None:
        deploy, report = converted(case, named)
        with torch.no_grad():
            assert gap(outputs(case), copy.deepcopy(deploy)(inputs(SHAPE))) <= 1e-12
        assert report.max_error is not None
        assert report.max_error <= 1e-12

    def test_keeps_its_class_and_shares_no_memory(self, case: Case, named: bool) -> None:
        deploy, _ = converted(case, named)
        assert type(deploy) is type(original(case))
        assert not storages(deploy) & storages(original(case))

    def test_has_nothing_left_to_do(self, case: Case, named: bool) -> None:
        deploy, _ = converted(case, named)
        before = snapshot(deploy)
        again, report = reparamkit.apply(deploy, case.recipe if named else None, inplace=True, return_report=True)
        assert report.merged == ()
        assert_untouched(again, before)


def storages(model: nn.Module) -> set[int]:
    held: list[Tensor] = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr() for t in held if t.numel()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_single_precision(case: Case) -> None:
    """The float64 truth tells rounding that a deep network amplifies from an error of the conversion."""
    model, x = case.build(), inputs(SHAPE, dtype=torch.float32)
    deploy = reparamkit.apply(model, case.recipe)
    assert {p.dtype for p in deploy.parameters()} == {torch.float32}
    comparison = reparamkit.verify(model, deploy, x)
    assert comparison.error <= max(1e-4, 8 * comparison.noise)


@pytest.mark.parametrize("case", YOLOS, ids=str)
def test_yolo_still_predicts(case: Case) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    yolo = ultralytics.YOLO(f"{case.name}.yaml", verbose=False)
    reparamkit.apply(yolo.model.eval(), "yolo", inplace=True)
    assert counts(yolo.model) == (case.convs, 0)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (80, 96, 3), dtype=torch.uint8, generator=generator).numpy()
    (result,) = yolo.predict(picture, imgsz=96, conf=1e-5, max_det=7, verbose=False, save=False)
    assert result.orig_shape == (80, 96)
    assert len(result.boxes) > 0
    assert torch.isfinite(result.boxes.data).all()
