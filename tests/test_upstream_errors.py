"""Where timm's own converter goes wrong, and ours does not. Each test shows both."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from tests.helpers import assert_same, gap, inputs
from tests.zoo import counts, timm_model

pytestmark = pytest.mark.zoo
timm = pytest.importorskip("timm")


def upstream(model: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    converted: nn.Module = reparameterize_model(model)
    return converted


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "size"), [("repvit_m0_9", 64), ("levit_128s", 224), ("tiny_vit_5m_224", 224), ("efficientvit_m0", 224)]
)
class TestDtype:
    """Upstream makes the new layers in float32, whatever the model is in."""

    def test_half_precision(self, name: str, size: int) -> None:
        model = timm_model(name).to(torch.bfloat16)
        theirs, ours = upstream(copy.deepcopy(model)), reparamkit.apply(model)
        assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16, torch.float32}
        assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
        with torch.no_grad():
            assert ours(inputs((1, 3, size, size), dtype=torch.bfloat16)).dtype == torch.bfloat16

    def test_double_precision(self, name: str, size: int) -> None:
        model = timm_model(name).double()
        x = inputs((1, 3, size, size))
        with pytest.raises(RuntimeError, match=r"dtype|type"), torch.no_grad():
            upstream(copy.deepcopy(model))(x)
        assert_same(model, reparamkit.apply(model), (1, 3, size, size))


@pytest.mark.parametrize(("name", "options"), [("ghostnetv3_050", {}), ("fastvit_t8", {}), ("repvgg_d2se", {})])
def test_parameters_stay_trainable(name: str, options: dict[str, Any]) -> None:
    """Upstream detaches every parameter of a block, those it does not merge too."""
    model = timm_model(name, **options)
    ours, theirs = reparamkit.apply(model), upstream(copy.deepcopy(model))
    assert len(trainable(theirs)) < len(list(theirs.parameters()))
    assert trainable(ours) == {name for name, _ in ours.named_parameters()}


def test_frozen_parameters_stay_frozen() -> None:
    model: Any = timm_model("repvgg_a0")
    model.stages[0].requires_grad_(False)
    ours = reparamkit.apply(model)
    frozen = {name for name, _ in ours.named_parameters()} - trainable(ours)
    assert frozen
    assert all(name.startswith("stages.0.") for name in frozen)


def test_second_conversion() -> None:
    """Upstream's second one looks for branches that the first deleted."""
    model = timm_model("fastvit_t8").double()
    with pytest.raises(AttributeError):
        upstream(upstream(copy.deepcopy(model)))
    once = reparamkit.apply(model)
    twice, report = reparamkit.apply(once, return_report=True)
    assert report.merged == ()
    assert_same(once, twice, (1, 3, 64, 64), rtol=0.0)


@pytest.mark.parametrize("name", ["RepVggBlock", "MobileOneBlock"])
def test_blocks_built_in_their_deploy_form(name: str) -> None:
    """Upstream's deploy form of a block, where it is built as one, does not pad: a converted one does."""
    byobnet = pytest.importorskip("timm.models.byobnet")
    train, deploy = (getattr(byobnet, name)(8, 8, 3, inference_mode=mode).eval() for mode in (False, True))
    x = inputs((1, 8, 12, 12), dtype=torch.float32)
    assert deploy(x).shape[2:] == (10, 10)
    assert reparamkit.apply(train)(x).shape == train(x).shape == x.shape


def test_training_mode_is_refused() -> None:
    """Upstream folds statistics that the model does not use in that mode."""
    model = timm_model("repvgg_a0").train()
    upstream(copy.deepcopy(model))
    with pytest.raises(reparamkit.ModelError, match="RK101"):
        reparamkit.apply(model)


@pytest.mark.parametrize("name", ["fastvit_t8", "nextvit_small", "repghostnet_050", "ghostnetv3_050", "lcnetv2_small"])
def test_batch_norms_that_upstream_leaves(name: str) -> None:
    model = timm_model(name).double()
    ours, theirs = reparamkit.apply(model), upstream(copy.deepcopy(model))
    assert counts(ours)[1] < counts(theirs)[1]
    assert counts(ours)[0] <= counts(theirs)[0]
    x = inputs((1, 3, 96, 96))
    with torch.no_grad():
        assert gap(model(x), ours(x)) <= 1e-9
