"""What is no model, or none that can be converted: what people really pass, and the error that names what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from reparamkit import ModelError
from tests.helpers import assert_untouched, inputs, snapshot


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).eval()


def image() -> torch.Tensor:
    return inputs((2, 3, 6, 6), dtype=torch.float32)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """What torch warns of when it exports, scripts or quantizes changes with every release."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


class Holder:
    """A pipeline, a trainer, a predictor: no module, but it has one."""

    def __init__(self) -> None:
        self.model = net()


class Wrapper(nn.Module):
    """As ultralytics' YOLO: a module without a forward whose `train` starts a training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = net()

    def train(self, trainer: object = None, **options: object) -> None:  # type: ignore[override]
        raise AssertionError("a training was started")


def exported() -> Any:
    return torch.export.export(net(), (image(),), strict=False)  # torch 2.6 cannot unflatten the strict one


def offloaded() -> nn.Module:
    model = net()
    model[0].to("meta")
    model[0]._hf_hook = object()  # type: ignore[assignment]
    return model


NO_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(net()), "RK601.*convert the Python module it was made from"),
    "traced": (lambda: torch.jit.trace(net(), image()), "RK601.*convert the Python module it was made from"),
    "exported": (exported, "RK602.*convert the module it was exported from"),
    "module of an exported program": (lambda: exported().module(), "RK602.*convert the module it was exported from"),
    "unflattened": (lambda: torch.export.unflatten(exported()), "RK602.*convert the module it was exported from"),
    "state dict": (lambda: net().state_dict(), "RK603.*state dict.*load it into a model with load_state_dict"),
    "checkpoint": (lambda: {"model": net().state_dict(), "epoch": 3}, "RK603.*state dict.*load_state_dict"),
    "class": (lambda: nn.Sequential, "RK603.*the class Sequential; pass an instance"),
    "name": (lambda: "resnet50", "RK603.*a name or path; build the model"),
    "nothing": (lambda: None, "RK603.*got NoneType"),
    "method": (lambda: net().forward, "RK603.*a method of one; pass the module"),
    "pipeline": (Holder, "RK603.*Holder, which holds one; pass its .model"),
    "wrapper that trains": (Wrapper, "RK603.*got Wrapper; pass its .model"),
    "offloaded": (offloaded, "RK505.*load the model without device_map"),
    "meta": (lambda: net().to("meta"), "RK505.*load the weights first"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(3, 3)).eval(), "RK102.*run one batch"),
}


@pytest.mark.parametrize(("make", "message"), NO_MODELS.values(), ids=NO_MODELS.keys())
def test_error_says_what_to_pass(make: Callable[[], Any], message: str) -> None:
    given = make()
    for call in (reparamkit.apply, reparamkit.plan):
        with pytest.raises(ModelError, match=message):
            call(given)


def test_wrapper_of_a_real_library() -> None:
    ultralytics = pytest.importorskip("ultralytics")
    with pytest.raises(ModelError, match=r"RK603.*got YOLO; pass its \.model"):
        reparamkit.apply(ultralytics.YOLO("yolov8n.yaml"))


def test_pipeline_of_a_real_library() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(depths=[1, 1], hidden_sizes=[8, 8], embedding_size=8)
    model = transformers.ResNetForImageClassification(config)
    found = transformers.pipeline(
        "image-classification", model=model, image_processor=transformers.ConvNextImageProcessor()
    )
    with pytest.raises(ModelError, match=r"RK603.*Pipeline, which holds one; pass its \.model"):
        reparamkit.apply(found)
    converted = reparamkit.apply(found.model.eval())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())


def quantized(part: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(part, {nn.Linear}, torch.qint8).eval()  # type: ignore[no-any-return, no-untyped-call]


INSIDE: dict[str, tuple[Callable[[nn.Module], nn.Module], int]] = {
    "scripted": (torch.jit.script, 1),  # type: ignore[dict-item]
    "quantized": (quantized, 2),
}


@pytest.mark.parametrize(("kind", "merged"), INSIDE.values(), ids=INSIDE.keys())
def test_a_part_that_cannot_be_read_is_left_alone(kind: Callable[[nn.Module], nn.Module], merged: int) -> None:
    """The rest is converted."""
    other = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4, 4)).eval()
    model = nn.Sequential(nn.Sequential(*net()[:3]), kind(other)).eval()
    converted, report = reparamkit.apply(model, return_report=True)
    assert len(report.merged) == merged
    with torch.no_grad():
        assert torch.allclose(converted(image()), model(image()), atol=1e-5)


def test_modules_in_the_layout_of_onednn_are_left_alone() -> None:
    from torch.utils.mkldnn import to_mkldnn

    model = nn.Sequential(nn.Sequential(*net()[:3]), to_mkldnn(net()[:2]).eval()).eval()  # type: ignore[no-untyped-call]
    _, report = reparamkit.apply(model, return_report=True)
    assert [m.path for m in report.merged] == ["0.0"]
    assert {r.code for r in report.untraceable} == {"RK604"}


def test_a_refused_model_is_untouched() -> None:
    model = net()
    model[4].weight = nn.Parameter(torch.empty(4, 8 * 16, device="meta"))
    before = [(n, id(t)) for n, t in model.named_parameters()]
    with pytest.raises(ModelError, match="RK505"):
        reparamkit.apply(model, inplace=True)
    assert [(n, id(t)) for n, t in model.named_parameters()] == before
    model = net().train()
    seen = snapshot(model)
    with pytest.raises(ModelError, match="RK101"):
        reparamkit.apply(model, inplace=True)
    assert_untouched(model, seen)
