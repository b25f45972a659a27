"""RepMLPNet (arXiv 2112.11081): a fully connected layer over positions, convolutions beside it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN
from tests.published.assertions import collapses


class RepMLPBlock(nn.Module):
    """Partitions of h x w positions, `fc3` over them, kernels beside it, a gate from the whole image.

    Args:
        c: channels.
        size: positions of a partition along each axis.
        kernels: taps of the convolutions beside the fully connected layer.
    """

    def __init__(self, c: int = 8, size: int = 4, kernels: tuple[int, ...] = (1, 3)) -> None:
        super().__init__()
        self.c, self.s, self.h, self.w = c, 2, size, size
        self.fc1, self.fc2 = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)
        n = size * size * self.s
        self.fc3, self.fc3_bn = nn.Conv2d(n, n, 1, groups=self.s, bias=False), nn.BatchNorm2d(self.s)
        self.kernels = nn.ModuleList(ConvBN(self.s, self.s, k, groups=self.s) for k in kernels)

    def partition(self, x: Tensor, rows: int, columns: int) -> Tensor:
        x = x.reshape(-1, self.c, rows, self.h, columns, self.w)
        return x.permute(0, 2, 4, 1, 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.size()
        rows, columns = height // self.h, width // self.w
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        gate = self.fc2(gate).sigmoid()
        parts = self.partition(x, rows, columns)
        full = self.fc3(parts.reshape(-1, self.s * self.h * self.w, 1, 1))
        full = self.fc3_bn(full.reshape(-1, self.s, self.h, self.w))
        local = parts.reshape(-1, self.s, self.h, self.w)
        out = full + sum(kernel(local) for kernel in self.kernels)
        out = out.reshape(-1, rows, columns, self.c, self.h, self.w)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, height, width) * gate


def test_kernels_merge_and_the_fully_connected_layer_stays() -> None:
    """A convolution as a matrix over positions holds for one size only, so it takes the plugin for it.

    Without it: the gate's two 1x1, the fully connected layer with its norm behind a reshape, one kernel.
    """
    collapses(RepMLPBlock(), 4, (1, 8, 8, 8), (2, 8, 4, 8), norms=1, refused={"RK321"})
