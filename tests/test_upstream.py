"""Beside upstream's converters: the same weights where they are right, and no harm from calling them afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from tests import blocks
from tests.helpers import assert_same, codes, convert, gap, inputs
from tests.zoo import counts, timm_model, ultralytics_model

Shape = tuple[int, ...]
SHAPE = (1, 3, 32, 64)


def upstream(model: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    converted: nn.Module = reparameterize_model(model)
    return converted


@pytest.mark.zoo
class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self) -> None:
        pytest.importorskip("timm")

    @pytest.mark.parametrize(("name", "recipe"), [("repvgg_a0", "repvgg"), ("mobileone_s0", "mobileone")])
    def test_deploy_weights_are_upstreams(self, name: str, recipe: str) -> None:
        """Same keys, same shapes, same numbers; they load into an upstream deploy model that never saw reparamkit."""
        model = timm_model(name).double()
        ours, theirs = reparamkit.apply(model, recipe), upstream(model)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for key, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=1e-9, atol=1e-12)
        fresh = upstream(timm_model(name).double())
        fresh.load_state_dict(ours.state_dict(), strict=True)
        assert_same(model, fresh, SHAPE, rtol=1e-12)

    @pytest.mark.parametrize("kind", ["RepVggBlock", "MobileOneBlock"])
    def test_deploy_weights_load_into_a_block_built_for_inference(self, kind: str) -> None:
        """timm builds that block's convolution without padding, so only the weights can be compared."""
        from timm.models import byobnet

        block: Any = getattr(byobnet, kind)
        ours = reparamkit.apply(block(8, 8).eval(), kind.removesuffix("Block").lower())
        deploy = block(8, 8, inference_mode=True)
        deploy.load_state_dict(ours.state_dict(), strict=True)
        assert {k: t.shape for k, t in deploy.state_dict().items()} == {
            k: t.shape for k, t in ours.state_dict().items()
        }

    @pytest.mark.parametrize("recipe", [None, "fastvit"])
    def test_fastvit_blocks_have_upstreams_weights(self, recipe: str | None) -> None:
        """Where upstream leaves one convolution, ours has the same numbers, whatever it is called."""
        model = timm_model("fastvit_t8").double()
        ours, theirs = reparamkit.apply(model, recipe), upstream(model)
        compared = 0
        for path, block in theirs.named_modules():
            if type(block).__name__ not in ("MobileOneBlock", "ReparamLargeKernelConv"):
                continue
            wanted = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            got = [m for m in ours.get_submodule(path).modules() if isinstance(m, nn.Conv2d)]
            assert len(got) == len(wanted)
            for a, b in zip(wanted, got, strict=True):
                torch.testing.assert_close(a.weight, b.weight, rtol=1e-9, atol=1e-12)
                compared += 1
        assert compared > 10

    @pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repghostnet_100"])
    def test_same_outputs_and_no_more_layers(self, name: str) -> None:
        model = timm_model(name).double()
        ours, theirs = reparamkit.apply(model), upstream(model)
        assert_same(theirs, ours, SHAPE, rtol=1e-12)
        assert counts(ours)[0] <= counts(theirs)[0]
        assert counts(ours)[1] == 0

    @pytest.mark.parametrize(
        "name",
        "repvgg_a0 mobileone_s0 fastvit_t8 repvit_m1 repghostnet_100 levit_conv_128s shvit_s1 lcnetv2_small".split(),
    )
    def test_upstreams_converter_afterwards_changes_nothing(self, name: str) -> None:
        """Float32: timm's fuse() makes float32 layers whatever the model is."""
        model = timm_model(name)
        ours = reparamkit.apply(model)
        x = inputs((1, 3, 224, 224) if name.startswith("levit") else SHAPE, dtype=torch.float32)
        with torch.no_grad():
            wanted = ours(x)
            again = upstream(ours)(x)
        assert gap(wanted, again) <= 1e-5


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["yolov8n", "yolov9t", "yolov10n"])
def test_ultralytics_fuse_afterwards_changes_nothing(name: str) -> None:
    pytest.importorskip("ultralytics")
    model = ultralytics_model(name).double()
    ours = reparamkit.apply(model, "yolo")
    twin: Any = copy.deepcopy(ours)
    fused = twin.fuse(verbose=False)
    x = inputs((1, 3, 64, 64))
    with torch.no_grad():
        wanted, got = ours(x), fused(x)
    assert gap(wanted[0] if isinstance(wanted, tuple) else wanted, got[0] if isinstance(got, tuple) else got) <= 1e-12


IMAGES = ((1, 8, 7, 7), (2, 8, 14, 9), (1, 8, 8, 10))


@pytest.mark.parametrize(("nd", "shape"), [(1, (2, 8, 9)), (3, (1, 8, 4, 5, 6))])
def test_repvgg_of_other_ranks(nd: int, shape: Shape) -> None:
    deploy, report = convert(blocks.RepVGGBlock(nd=nd), shape, example_inputs=inputs(shape))
    assert counts(deploy) == (1, 0)
    assert not codes(report)


def test_repvgg_1d_learns_the_rank_of_its_input_from_the_conv_that_reads_it() -> None:
    """BatchNorm1d also takes rows of features, where it would act on another axis; a Conv1d beside it does not."""
    deploy, report = convert(blocks.RepVGGBlock(nd=1), (2, 8, 9))
    assert counts(deploy) == (1, 0)
    assert not codes(report)


@pytest.mark.parametrize(
    ("build", "converter"),
    [
        (lambda: blocks.RepVGGBlock(), "switch_to_deploy"),
        (lambda: blocks.MobileOneBlock(), "reparameterize"),
        (lambda: blocks.RepMixer(), "reparameterize"),
        (lambda: blocks.RepConv(), "fuse_convs"),
    ],
)
def test_own_converter_of_a_block_afterwards_changes_nothing(build: Callable[[], nn.Module], converter: str) -> None:
    deploy, _ = convert(build(), *IMAGES)
    x = inputs(IMAGES[0])
    with torch.no_grad():
        before = deploy(x)
        getattr(deploy, converter)()
        assert torch.equal(deploy(x), before)
    assert counts(deploy) == (1, 0)


def test_deploy_forward_of_a_block_afterwards_is_the_merged_one() -> None:
    """ultralytics' `fuse` puts `forward_fuse` on the instance."""
    deploy: Any = convert(blocks.RepConv(), *IMAGES)[0]
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert torch.equal(deploy.forward_fuse(x), deploy(x))
