"""Forwards as other codebases write them: how they hold their modules, pad, freeze, and ask for sizes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import conv_bn, convert, counts


class MixedOps(nn.Module):
    """Lists of lists of branches, as search spaces have them; of the second list only one branch merges further."""

    def __init__(self) -> None:
        super().__init__()
        every = [
            [nn.Sequential(*conv_bn(4, 4, 3, padding=1)), nn.Sequential(*conv_bn(4, 4, 1))],
            [
                nn.Sequential(*conv_bn(4, 4, (1, 3), padding=(0, 1))),
                nn.Sequential(*conv_bn(4, 4, (3, 1), padding=(1, 0))),
            ],
        ]
        self.ops = nn.ModuleList([nn.ModuleList(branches) for branches in every])
        self.skips = nn.ModuleDict({"first": nn.BatchNorm2d(4), "second": nn.BatchNorm2d(4)})

    def forward(self, x: Tensor) -> Tensor:
        for branches, skip in zip(self.ops, self.skips.values(), strict=True):
            y = skip(x)
            for branch in branches:  # type: ignore[attr-defined]
                y += branch(x)
            x = F.relu6(y, inplace=True)
        return x


def test_lists_in_lists_keep_their_places() -> None:
    deploy: Any = convert(MixedOps())[0]
    assert counts(deploy) == (3, 0)
    assert [name for name, _ in deploy.ops.named_children()] == ["0", "1"]
    assert [name for name, _ in deploy.ops[1].named_children()] == ["0", "1"]
    assert counts(deploy.ops[1]) == (1, 0)
