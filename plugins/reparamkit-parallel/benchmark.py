"""Where one wide layer is faster than several: ``python benchmark.py [--seconds 1.0]``.

Prints, for each block, milliseconds a call with separate layers and with one wide layer, measured in turns, and their
ratio. Above 1 the wide layer is faster; between 0.95 and 1.05 call it a draw.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import reparamkit_parallel
import torch
from torch import Tensor, nn

import reparamkit


class Branches(nn.Module):
    """Three 1x1 convolutions of one input, each with a ReLU, as at the start of an Inception block."""

    def __init__(self, channels: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, o, 1), nn.ReLU()) for o in outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches, stacked."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Attention(nn.Module):
    """q, k and v of one input, and attention over them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, of shape ``[batch, tokens, width]``."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Inception 3a, 28x28": (lambda: Branches(192, (64, 96, 16)), (1, 192, 28, 28)),
    "Inception 5b, 7x7": (lambda: Branches(832, (384, 192, 48)), (1, 832, 7, 7)),
    "Inception 5b, 7x7, batch 16": (lambda: Branches(832, (384, 192, 48)), (16, 832, 7, 7)),
    "CSP pair, 80x80": (lambda: Branches(64, (32, 32)), (1, 64, 80, 80)),
    "CSP pair, 20x20": (lambda: Branches(256, (128, 128)), (1, 256, 20, 20)),
    "qkv 192, 197 tokens": (lambda: Attention(192, 3), (1, 197, 192)),
    "qkv 768, 197 tokens": (lambda: Attention(768, 12), (1, 197, 768)),
    "qkv 768, 1 token": (lambda: Attention(768, 12), (1, 1, 768)),
}


def milliseconds(models: tuple[nn.Module, nn.Module], x: Tensor, seconds: float) -> list[float]:
    """Median time of a call of each, in turns, so that a slow moment hits both."""
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 10:
        for model, found in zip(models, times, strict=True):
            start = time.perf_counter()
            model(x)
            found.append(time.perf_counter() - start)
    return [1000 * statistics.median(found[2:]) for found in times]


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each case")
    seconds = parser.parse_args().seconds
    print(f"{'block':30}{'separate':>10}{'wide':>10}{'ratio':>8}   (torch {torch.__version__}, ms a call)")
    for name, (make, shape) in CASES.items():
        torch.manual_seed(0)
        model = make().eval()
        wide = reparamkit.apply(model, "parallel:parallel", plugins=[reparamkit_parallel])
        with torch.no_grad():
            a, b = milliseconds((model, wide), torch.randn(shape), seconds)
        print(f"{name:30}{a:10.3f}{b:10.3f}{a / b:8.2f}")


if __name__ == "__main__":
    main()
