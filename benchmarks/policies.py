"""The policy "measured" beside "cheaper" and "always", on blocks and models where they differ. One thread.

Figures are appended to a file, one line a case and engine; what is there is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deployed.engines import prepared
from deployed.lines import Lines
from deployed.models import build, images
from deployed.timing import interleaved, ratio
from torch import Tensor, nn

import reparamkit

OTHERS = ("cheaper", "always")
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


def measure(name: str, engine: str, rounds: int) -> dict[str, Any]:
    """Convolutions left, what was timed, and CPU time of the other policies' results over measured's."""
    make, x = CASES[name]
    model, measured = make().eval(), reparamkit.measured(engine)
    made = {policy: reparamkit.apply(model, policy=policy, example_inputs=x) for policy in OTHERS}
    made["measured"], report = reparamkit.apply(model, policy=measured, example_inputs=x, return_report=True)
    times = interleaved({policy: prepared(one, engine, x) for policy, one in made.items()}, rounds)
    return {
        "case": name,
        "engine": engine,
        "rounds": rounds,
        "convs": {policy: sum(isinstance(m, nn.Conv2d) for m in one.modules()) for policy, one in made.items()},
        "questions": len(report.timed.questions),
        "unasked": report.timed.unasked,
        "seconds": report.timed.used,
        "ratio": {policy: ratio(times, policy, "measured") for policy in OTHERS},
    }


def row(found: dict[str, Any]) -> str:
    cells = [f"{q[1]:.2f} [{q[0]:.2f}, {q[2]:.2f}]" for q in found["ratio"].values()]
    convs = " / ".join(str(n) for n in found["convs"].values())
    left = f", {found['unasked']} not" if found["unasked"] else ""
    asked = f"{found['questions']} in {found['seconds']:.1f} s{left}"
    return f"| {found['case']} | {found['engine']} | {convs} | {' | '.join(cells)} | {asked} |"


HEAD = """## The policy "measured"

Written by `python benchmarks/policies.py`: CPU time in the engine that it was asked for, one thread; above 1 "measured"
is faster. A question is two lists of layers of certain geometries; the same one is asked once.

| block or model | engine | convolutions: cheaper / always / measured | cheaper / measured | always / measured | timed |
|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(map(repr, CASES))}")
    parser.add_argument("--engine", nargs="*", default=["eager"], help="also compile, onnxruntime, openvino")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, default=Path("policies.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known = Lines(args.results, ("case", "engine"))
    print(HEAD)
    for engine in args.engine:
        for name in args.cases or CASES:
            found = known.get(name, engine) or known.add(measure(name, engine, args.rounds))
            print(row(found), flush=True)


if __name__ == "__main__":
    main()
