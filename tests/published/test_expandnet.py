"""ExpandNets (arXiv 1811.10495) and SESR (arXiv 2103.09404): wide linear chains that train and narrow ones that run."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from tests.blocks import SESRBlock, expand_net
from tests.helpers import inputs
from tests.published.assertions import collapses


class ExpandedKernel(nn.Sequential):
    """ExpandNet-CK: a 7x7 as three 3x3 in a row, nothing padded, biases or not."""

    def __init__(self, c: int = 8, wide: int = 16, biases: tuple[bool, ...] = (True, True, True)) -> None:
        first, second, third = biases
        super().__init__(
            nn.Conv2d(c, wide, 3, bias=first),
            nn.Conv2d(wide, wide, 3, bias=second),
            nn.Conv2d(wide, c, 3, bias=third),
        )


class ExpandedLinear(nn.Sequential):
    """ExpandNet-FC: a linear layer as three."""

    def __init__(self, cin: int = 8, wide: int = 32, cout: int = 6) -> None:
        super().__init__(nn.Linear(cin, wide), nn.Linear(wide, wide), nn.Linear(wide, cout, bias=False))


class StridedChain(nn.Sequential):
    """The stride stands at the kernel in the middle, the padding at the first layer."""

    def __init__(self, c: int = 8, wide: int = 24, stride: int = 2) -> None:
        super().__init__(
            nn.Conv2d(c, wide, 1, padding=1), nn.Conv2d(wide, wide, 3, stride), nn.Conv2d(wide, c, 1, bias=False)
        )


class SESR(nn.Module):
    """First 5x5, two 3x3 blocks, a skip over both, last 5x5; every convolution is a wide one and a 1x1."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 64, 5, padding=2), nn.Conv2d(64, c, 1))
        self.blocks = nn.Sequential(SESRBlock(c, 64), SESRBlock(c, 64))
        self.last = nn.Sequential(nn.Conv2d(c, 64, 5, padding=2), nn.Conv2d(64, 4, 1))
        self.act, self.shuffle = nn.PReLU(c), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        return self.shuffle(self.last(self.blocks(y) + y) + x)


@pytest.mark.parametrize("recipe", [None, "expandnet"])
def test_expanded_layer(recipe: str | None) -> None:
    collapses(expand_net(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "expandnet"])
@pytest.mark.parametrize("biases", [(True, True, True), (True, False, False), (False, False, True)])
def test_expanded_kernel(biases: tuple[bool, ...], recipe: str | None) -> None:
    """Also where the first layer has a bias and the last has none, for which upstream's converter drops it."""
    deploy: Any = collapses(ExpandedKernel(biases=biases), 1, recipe=recipe)
    (conv,) = [m for m in deploy.modules() if isinstance(m, nn.Conv2d)]
    assert conv.kernel_size == (7, 7)
    assert conv.bias is not None


@pytest.mark.parametrize("recipe", [None, "expandnet"])
@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_expanded_linear(shape: tuple[int, ...], recipe: str | None) -> None:
    collapses(ExpandedLinear(), 1, shape, recipe=recipe)


@pytest.mark.parametrize("stride", [1, 2])
def test_stride_in_the_middle_and_zeros_at_the_front(stride: int) -> None:
    """The padded 1x1 gives its bias on the padding, which the kernel behind it then reads: exact as one kernel only
    without that bias."""
    chain = StridedChain(stride=stride)
    chain[0] = nn.Conv2d(8, 24, 1, padding=1, bias=False)
    collapses(chain, 1)


def test_padded_in_the_middle_is_refused() -> None:
    """The must-refuse twin."""
    collapses(nn.Sequential(nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 3, padding=1)), 2, refused={"RK316"})


@pytest.mark.parametrize("recipe", [None, "sesr"])
def test_sesr_block(recipe: str | None) -> None:
    collapses(SESRBlock(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "sesr"])
def test_sesr(recipe: str | None) -> None:
    collapses(SESR(), 4, (1, 1, 12, 9), (2, 1, 7, 8), recipe=recipe)


def test_rank_one_and_three() -> None:
    for nd, shape in ((1, (2, 4, 9)), (3, (1, 4, 5, 6, 7))):
        conv: Any = getattr(nn, f"Conv{nd}d")
        chain = nn.Sequential(conv(4, 16, 1), conv(16, 16, 3), conv(16, 4, 1))
        collapses(chain, 1, shape, example_inputs=inputs(shape))
