"""What a block costs to convert when there are many of them: CPU time, medians of fresh models, in place."""

from __future__ import annotations

import argparse
import gc
import statistics
import time

import torch
from torch import Tensor, nn

import reparamkit


class Block(nn.Module):
    """RepVGG (arXiv 2101.03697) with 8 channels: 5 modules."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.dense_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.point, self.point_norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.identity_norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense_norm(self.dense(x)) + self.point_norm(self.point(x)) + self.identity_norm(x))


def seconds(blocks: int) -> float:
    """CPU seconds of one conversion."""
    model = nn.Sequential(*[Block() for _ in range(blocks)]).eval()
    gc.collect()
    start = time.process_time()
    reparamkit.apply(model, inplace=True)
    spent = time.process_time() - start
    left = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    if left != blocks:
        raise SystemExit(f"{left} convolutions left of {blocks} blocks")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", type=int, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds(5)  # imports
    print("## Many blocks\n")
    print("Written by `python benchmarks/scale.py`: CPU milliseconds a block of a chain of RepVGG blocks, in place.\n")
    print("| blocks | ms a block, median | least | beside the first row |\n|---|---|---|---|")
    first = None
    for blocks in args.blocks:
        found = [1e3 * seconds(blocks) / blocks for _ in range(args.runs)]
        middle = statistics.median(found)
        first = first or middle
        print(f"| {blocks:,} | {middle:.2f} | {min(found):.2f} | {middle / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
