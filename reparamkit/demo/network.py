"""A small RepVGG (https://arxiv.org/abs/2101.03697) for images of 8 x 8 pixels."""

from __future__ import annotations

from torch import Tensor, nn

# (channels, blocks) a stage; each stage but the first halves the image.
STAGES = ((32, 2), (64, 3), (128, 3))


def _conv_bn(inside: int, outside: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class RepVGGBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and, where the shape allows it, the input itself: each normed, added, rectified.

    Args:
        inside: input channels.
        outside: output channels.
        stride: of both convolutions.
    """

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.branch_3x3 = _conv_bn(inside, outside, 3, stride)
        self.branch_1x1 = _conv_bn(inside, outside, 1, stride)
        self.branch_identity = nn.BatchNorm2d(inside) if inside == outside and stride == 1 else None
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, inside, height, width]`` to ``[batch, outside, height / stride, width / stride]``."""
        total = self.branch_3x3(x) + self.branch_1x1(x)
        if self.branch_identity is not None:
            total = total + self.branch_identity(x)
        result: Tensor = self.activation(total)
        return result


class SmallRepVGG(nn.Module):
    """Blocks in three stages, global average pooling, a linear classifier.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 1
        for stage, (width, count) in enumerate(STAGES):
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(RepVGGBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 1, height, width]`` to ``[batch, classes]``."""
        features: Tensor = self.blocks(x)
        result: Tensor = self.classifier(features.mean((2, 3)))
        return result
