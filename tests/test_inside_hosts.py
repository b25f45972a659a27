"""A backbone inside what people put it in: decoders, detectors' pyramids, wrappers; all of it is converted at once."""

from __future__ import annotations

import copy
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import reparamkit
from reparamkit import ModelError
from tests import blocks
from tests.blocks import Net
from tests.helpers import gap, inputs, randomize
from tests.zoo import counts, randomize_norms, timm_model

SHAPE = (2, 3, 12, 10)


def net() -> nn.Module:
    return randomize(Net()).double()


class PassesOn(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Segments(nn.Module):
    """An encoder that returns a list of features, and a decoder that goes back through it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        wide: list[int] = encoder.feature_info.channels()  # type: ignore[operator, union-attr]
        steps = list(zip(wide[:0:-1], wide[-2::-1], strict=True))
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in steps
        )
        self.head = nn.Conv2d(wide[0], 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        *skips, y = self.encoder(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            y = block(torch.cat([F.interpolate(y, size=skip.shape[-2:]), skip], 1))
        return {"out": self.head(y)}


def assert_converts(model: nn.Module, x: Tensor, left: tuple[int, int], rtol: float = 1e-9) -> nn.Module:
    """All of it is converted, exactly, to so many convolutions and batch norms; a second time nothing happens."""
    with torch.no_grad():
        wanted = model(x)
        converted = reparamkit.apply(model)
        assert gap(wanted, converted(x)) <= rtol
    assert counts(converted) == left
    assert type(converted).__name__ == type(copy.deepcopy(model)).__name__  # the class of a GraphModule is its own
    assert reparamkit.plan(converted).edits == []
    return converted


WRAPPERS = {
    "one that hands on": lambda m: PassesOn(m).eval(),
    "data parallel": lambda m: nn.DataParallel(m).eval(),
    "average of weights": lambda m: AveragedModel(m).eval(),
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "compiled in place": lambda m: (m.compile(backend="eager"), m)[1],
    "list": lambda m: nn.Sequential(m, nn.Identity()).eval(),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrapped(wrap: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, which change with every release
        assert_converts(wrap(net()), inputs(SHAPE), (8, 0))
    torch._dynamo.reset()


def test_wrappers_are_no_forward_that_failed() -> None:
    _, report = reparamkit.apply(nn.DataParallel(net()).eval(), return_report=True)
    assert report.untraceable == ()


@pytest.mark.parametrize(
    ("encoder", "left"), [("repvgg_a0", (27, 0)), ("mobileone_s0", (48, 0)), ("resnet18", (25, 0))]
)
def test_encoder_of_a_segmentation_model(encoder: str, left: tuple[int, int]) -> None:
    pytest.importorskip("timm")
    model = randomize_norms(Segments(timm_model(encoder, features_only=True))).double()
    assert_converts(model, inputs((1, 3, 64, 64)), left)


def test_backbone_of_a_detector() -> None:
    """A pyramid over the features of a residual network, by their names."""
    backbones = pytest.importorskip("torchvision.models.detection.backbone_utils")
    backbone = backbones.resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    assert_converts(randomize_norms(backbone).double(), inputs((1, 3, 64, 64)), (28, 0))


def test_features_by_name() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    torchvision = pytest.importorskip("torchvision")
    model = extraction.create_feature_extractor(torchvision.models.resnet18(weights=None).eval(), ["layer2", "layer4"])
    assert_converts(randomize_norms(model).double(), inputs((1, 3, 64, 64)), (20, 0))


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one process, without a network."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
class TestDistributed:
    def test_wrapped_for_training(self) -> None:
        wrapped = nn.parallel.DistributedDataParallel(net())
        with pytest.warns(UserWarning, match=r"RK605.*model\.module of a DistributedDataParallel"):
            converted = reparamkit.apply(wrapped)
        assert counts(converted) == (8, 0)
        with pytest.warns(UserWarning, match="RK605"):
            assert counts(reparamkit.plan(wrapped.module).apply_to(wrapped)) == (8, 0)
        assert_converts(wrapped.module, inputs(SHAPE), (8, 0))
        inside = nn.Sequential(wrapped, nn.Identity()).eval()
        with pytest.raises(ModelError, match=r"RK605.*0 is a DistributedDataParallel"):
            reparamkit.apply(inside)

    def test_sharded(self) -> None:
        """Its weights are pieces; gathered as the error says, it can be converted."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = net()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ModelError, match=r"RK507.*get_model_state_dict with full_state_dict=True"):
            reparamkit.apply(model)
        whole = Net().double().eval()
        whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        assert_converts(whole, inputs(SHAPE), (8, 0))


def test_two_hosts_of_one_backbone() -> None:
    """What both call is converted once, for both."""
    shared = randomize(blocks.RepVGGBlock(4, 4)).double().eval()
    model = nn.ModuleDict({"teacher": PassesOn(shared), "student": PassesOn(shared)}).eval()
    converted: Any = reparamkit.apply(model)
    x = inputs((1, 4, 6, 6))
    with torch.no_grad():
        for name in model:
            assert gap(model[name](x), converted[name](x)) <= 1e-9
