"""The policy "measured" beside "cheaper" and "always", on blocks and models where they differ. Eager, one thread."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deployed.models import build, images
from deployed.timing import interleaved, ratio
from torch import Tensor, nn

import reparamkit

POLICIES = ("cheaper", "always", "measured")
Case = tuple[Callable[[], nn.Module], Tensor]


class Sum(nn.Module):
    """The sum of branches, and a relu."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(sum(branch(x) for branch in self.branches))


def separable(channels: int) -> nn.Module:
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return Sum(depthwise, nn.Conv2d(channels, channels, 1))


def dilated(channels: int) -> nn.Module:
    return Sum(nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=3, dilation=3))


def chain(wide: int, narrow: int, kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(wide, narrow, kernel, bias=False), nn.Conv2d(narrow, wide, 3))


CASES: dict[str, Case] = {
    "depthwise 3x3 + 1x1, 8 channels": (lambda: separable(8), torch.randn(1, 8, 32, 32)),
    "depthwise 3x3 + 1x1, 64 channels": (lambda: separable(64), torch.randn(1, 64, 28, 28)),
    "depthwise 3x3 + 1x1, 256 channels": (lambda: separable(256), torch.randn(1, 256, 7, 7)),
    "3x3 + dilated 3x3, 16 channels": (lambda: dilated(16), torch.randn(1, 16, 28, 28)),
    "3x3, 3x3, 16 channels": (lambda: chain(16, 16, 3), torch.randn(1, 16, 56, 56)),
    "3x3 to 4, 3x3 to 16 channels": (lambda: chain(16, 4, 3), torch.randn(1, 16, 56, 56)),
    "1x1 to 8, 3x3 to 64 channels": (lambda: chain(64, 8, 1), torch.randn(1, 64, 28, 28)),
    "repghostnet_100": (lambda: build("repghostnet_100"), images("repghostnet_100")),
    "fastvit_t8": (lambda: build("fastvit_t8"), images("fastvit_t8")),
}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Convolutions left, seconds to decide, and CPU time of the other policies' results over measured's."""
    make, x = case
    model, made, seconds = make().eval(), {}, {}
    for policy in POLICIES:
        start = time.perf_counter()
        made[policy] = reparamkit.apply(model, policy=policy, example_inputs=x)
        seconds[policy] = time.perf_counter() - start
    times = interleaved({name: lambda m=m: m(x) for name, m in made.items()}, rounds)
    convs = {name: sum(isinstance(k, nn.Conv2d) for k in m.modules()) for name, m in made.items()}
    return {"convs": convs, "seconds": seconds, "ratio": {p: ratio(times, p, "measured") for p in POLICIES[:2]}}


def row(name: str, found: dict[str, Any]) -> str:
    cells = [f"{q[1]:.2f} [{q[0]:.2f}, {q[2]:.2f}]" for q in found["ratio"].values()]
    convs = " / ".join(str(found["convs"][p]) for p in POLICIES)
    return f"| {name} | {convs} | {' | '.join(cells)} | {found['seconds']['measured']:.1f} |"


HEAD = """## The policy "measured"

Written by `python benchmarks/policies.py`: CPU time in eager mode, one thread; above 1 "measured" is faster.

| block or model | convolutions: cheaper / always / measured | cheaper / measured | always / measured | s to convert |
|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    print(HEAD)
    for name, case in CASES.items():
        results[name] = measure(case, args.rounds)
        print(row(name, results[name]))
        sys.stdout.flush()
    if args.results:
        args.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
