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


COLLAPSING: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "RepVGG": (lambda: blocks.RepVGGBlock(), 1),
    "RepVGG, grouped": (lambda: blocks.RepVGGBlock(groups=4), 1),
    "RepVGG, depthwise": (lambda: blocks.RepVGGBlock(groups=8), 1),
    "RepVGG, stride 2": (lambda: blocks.RepVGGBlock(stride=2), 1),
    "RepVGG, wider": (lambda: blocks.RepVGGBlock(8, 12), 1),
    "RepVGG with SE": (lambda: blocks.RepVGGBlock(se=True), 3),
    "MobileOne, depthwise": (lambda: blocks.MobileOneBlock(), 1),
    "MobileOne, pointwise": (lambda: blocks.MobileOneBlock(k=1, groups=1), 1),
    "QARepVGG": (lambda: blocks.QARepVGGBlock(), 1),
    "QARepVGG V2": (lambda: blocks.QARepVGGBlock(pool=True), 1),
    "ACNet": (lambda: blocks.ACBlock(), 1),
    "ACNet, cropped": (lambda: blocks.ACBlock(padding=0), 1),
    "DBB without inner norms": (lambda: blocks.DiverseBranchBlock(), 1),
    "RepLKNet": (lambda: blocks.RepLKBlock(), 3),
    "UniRepLKNet": (lambda: blocks.DilatedReparamBlock(), 1),
    "RepViT": (lambda: blocks.RepVGGDW(), 1),
    "FastViT": (lambda: blocks.RepMixer(), 1),
    "RepGhost": (lambda: blocks.RepGhostModule(), 2),
    "YOLO": (lambda: blocks.RepConv(), 1),
    "YOLO, grouped, with identity": (lambda: blocks.RepConv(groups=4, bn=True), 1),
    "PP-YOLOE": (lambda: blocks.AlphaRepVGG(), 1),
    "PP-LCNetV3": (lambda: blocks.LearnableRepLayer(), 1),
    "EfficientLoFTR": (lambda: blocks.RepConv(bn=True), 1),
    "TextNet": (lambda: blocks.TextNetBlock(), 1),
    "ExpandNet": (lambda: blocks.expand_net(), 1),
    "SESR": (lambda: blocks.SESRBlock(), 1),
    "RepNeXt": (lambda: blocks.RepNeXtSmall(), 1),
}
IMAGES = ((1, 8, 7, 7), (2, 8, 14, 9), (1, 8, 8, 10))


@pytest.mark.parametrize(("build", "convs"), COLLAPSING.values(), ids=COLLAPSING.keys())
def test_published_block_collapses(build: Callable[[], nn.Module], convs: int) -> None:
    block = build()
    deploy, report = convert(block, *IMAGES)
    assert counts(deploy) == (convs, 0)
    assert not codes(report)
    assert isinstance(deploy, type(block))


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


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_lora(shape: Shape) -> None:
    deploy, _ = convert(blocks.LoRALinear(), shape)
    assert [type(m) for m in deploy.modules() if not list(m.children())] == [nn.Linear]


REFUSED: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "DBB, zeros where the inner norm has a shift": (lambda: blocks.DiverseBranchBlock(border="zeros"), 4, "RK316"),
    "RepNeXt, a bias inside the chain": (lambda: blocks.RepNeXtSmall(bias=True), 3, "RK316"),
    "ExpandNet, padded": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8)),
        2,
        "RK316",
    ),
    "two padded kernels in a row": (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)),
        2,
        "RK316",
    ),
    "a pool that does not count its padding": (
        lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        1,
        "RK320",
    ),
}


@pytest.mark.parametrize(("build", "convs", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_inexact_merge_is_refused(build: Callable[[], nn.Module], convs: int, code: str) -> None:
    deploy, report = convert(build(), *IMAGES)
    assert counts(deploy)[0] == convs
    assert codes(report) == {code}


def test_border_of_the_inner_bias_is_never_guessed() -> None:
    """DBB as published pads with what the inner batch norm makes of zero: who reads it needs it as it was."""
    block = blocks.DiverseBranchBlock(border="bias")
    deploy, report = convert(block, *IMAGES)
    assert counts(deploy)[0] <= 5
    assert "RK604" in codes(report) or counts(deploy) == (1, 0)


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
