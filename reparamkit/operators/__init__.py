"""The values of the algebra: affine maps that commute with shifts.

| operator        | is                                                     |
|-----------------|--------------------------------------------------------|
| `Conv`          | convolution with 0 (linear layer), 1, 2 or 3 spatial axes |
| `ConvTranspose` | transposed convolution                                 |
| `Scale`         | per-channel scale and shift, identity; channels may be open |
| `Stencil`       | one filter for every channel: pooling, padding; channels open |
| `Layout`        | axes arranged in another way, channels kept              |
| `Arranged`      | an operator between two of those                         |
| `Picked`        | an operator of some of the channels                      |

Operators are frozen; `reparamkit.merge` combines them. Nothing here knows `torch.fx` or `torch.nn` modules.
"""

from __future__ import annotations

from reparamkit.operators.conv import Conv, conv
from reparamkit.operators.conv_transpose import ConvTranspose, conv_transpose
from reparamkit.operators.layout import Arranged, Layout
from reparamkit.operators.picked import Picked
from reparamkit.operators.scale import Scale, Stencil, stencil
from reparamkit.operators.vector import Vector, vector
from reparamkit.operators.weight import Weight, given

Operator = Conv | ConvTranspose | Scale | Stencil | Layout | Arranged | Picked

__all__ = [
    "Arranged",
    "Conv",
    "ConvTranspose",
    "Layout",
    "Operator",
    "Picked",
    "Scale",
    "Stencil",
    "Vector",
    "Weight",
    "conv",
    "conv_transpose",
    "given",
    "stencil",
    "vector",
]
