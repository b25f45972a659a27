"""A small plain network for images of 8 x 8 pixels: one 3x3 convolution after the other, as in VGG."""

from __future__ import annotations

from torch import Tensor, nn

# (channels, convolutions) a stage; each stage but the first halves the image.
STAGES = ((32, 2), (64, 3), (128, 3))


class SmallVGG(nn.Module):
    """Convolutions in three stages, global average pooling, a linear classifier. No branch, no batch norm.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for stage, (width, count) in enumerate(STAGES):
            for index in range(count):
                stride = 2 if stage and not index else 1
                layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()]
                channels = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 1, height, width]`` to ``[batch, classes]``."""
        features: Tensor = self.layers(x)
        result: Tensor = self.classifier(features.mean((2, 3)))
        return result
