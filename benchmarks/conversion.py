"""What a conversion costs: `reparamkit.apply(inplace=True)`, every merge proven, against the author's own converter.

That is timm's `reparameterize_model(inplace=True)`, and ultralytics' `fuse()`; neither proves anything.

Time: both in this process, one compute thread, in pairs whose order alternates; the figure is the median of the
ratios author / reparamkit of the pairs, with their quartiles. Memory: bytes that torch has handed out beyond those
before the conversion, at the most and after it; and the resident set, each conversion in a fresh process. Before a
figure is shown, it is checked that the model collapsed at least as far as the author's and computes the same.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deployed.memory import resident_bytes, tensor_bytes
from deployed.models import build, by_author, images
from torch import nn

import reparamkit

MODELS = (
    "repvgg_a0 repvgg_b0 repvgg_b3 mobileone_s0 mobileone_s1 mobileone_s4 fastvit_t8 fastvit_ma36 repvit_m2_3 yolov8x"
).split()


def by_reparamkit(model: nn.Module) -> nn.Module:
    return reparamkit.apply(model, inplace=True)


def by_reparamkit_copied(model: nn.Module) -> nn.Module:
    return reparamkit.apply(model)


SIDES: dict[str, Callable[[nn.Module], nn.Module]] = {"reparamkit": by_reparamkit, "author": by_author}


def counts(model: nn.Module) -> tuple[int, int]:
    """Convolutions and batch norms."""
    modules = list(model.modules())
    norms = nn.modules.batchnorm._BatchNorm
    return sum(isinstance(m, nn.Conv2d) for m in modules), sum(isinstance(m, norms) for m in modules)


def check(name: str, template: nn.Module) -> None:
    """Stop when ours is not what a conversion should give."""
    made = {side: convert(copy.deepcopy(template)) for side, convert in SIDES.items()}
    ours, theirs = counts(made["reparamkit"]), counts(made["author"])
    if ours[0] > theirs[0] or ours[1]:
        sys.exit(f"{name}: convolutions and batch norms left: reparamkit {ours}, author {theirs}")
    with torch.no_grad():
        comparison = reparamkit.verify(template, made["reparamkit"], images(name))
    if comparison.error > comparison.allowed:
        sys.exit(f"{name}: {comparison.error:.2g} off")


def seconds(convert: Callable[[nn.Module], nn.Module], template: nn.Module) -> float:
    """CPU seconds of one conversion of a fresh copy."""
    model = copy.deepcopy(template)
    gc.collect()
    start = time.process_time()
    model = convert(model)
    return time.process_time() - start


def measure_time(name: str, template: nn.Module, pairs: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for pair in range(pairs):
        for side in list(SIDES) if pair % 2 else reversed(list(SIDES)):
            found[side].append(seconds(SIDES[side], template))
    ratios = [b / a for a, b in zip(found["reparamkit"], found["author"], strict=True)]
    others = {
        "copied": lambda: seconds(by_reparamkit_copied, template),
        "forward": lambda: _forward(template, images(name)),
    }
    more = {what: statistics.median(run() for _ in range(3)) for what, run in others.items()}
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else ratios * 3
    return {**{side: statistics.median(runs) for side, runs in found.items()}, **more, "ratio": quartiles}


def _forward(model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        start = time.process_time()
        model(x)
        return time.process_time() - start


def measure_resident(name: str, runs: int) -> dict[str, list[int]]:
    """Of fresh processes, sorted."""
    found: dict[str, list[int]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            command = [sys.executable, __file__, "--peak", name, side]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found[side].append(int(done.stdout.split()[-1]))
    return {side: sorted(seen) for side, seen in found.items()}


def peak_of(name: str, side: str) -> int:
    SIDES[side](build("repvgg_a0" if name != "repvgg_a0" else "mobileone_s0"))  # load code and libraries first
    if name.startswith("yolo"):
        SIDES[side](build("yolov8n"))
    return resident_bytes(SIDES[side], build(name))


HEAD = """## What a conversion costs

Written by `python benchmarks/conversion.py`: in place, every merge proven, beside the author's own converter, which
proves nothing. CPU milliseconds on one thread, median of {pairs} pairs; ratio: author / reparamkit, above 1 reparamkit
is faster. "copy": the default, which leaves the model alone. "forward": one image through the model before it is
converted.

| model | reparamkit | author | ratio [quartiles] | copy | forward |
|---|---|---|---|---|---|"""
MEMORY = """
Memory in MB beyond that before: tensors at the most during a conversion and left after it (negative: less than before);
resident set of the process at the most, median [least, most] of {runs} processes.

| model | weights | reparamkit: most, left | author: most, left | reparamkit: resident | author: resident |
|---|---|---|---|---|---|"""


def time_row(name: str, found: dict[str, Any]) -> str:
    low, mid, high = found["ratio"]
    ours, theirs, copied, forward = (f"{found[k] * 1e3:.0f}" for k in ("reparamkit", "author", "copied", "forward"))
    return f"| {name} | {ours} | {theirs} | {mid:.2f} [{low:.2f}, {high:.2f}] | {copied} | {forward} |"


def memory_row(name: str, found: dict[str, Any]) -> str:
    tensors = [", ".join(f"{n / 2**20:.0f}" for n in found["tensors"][side]) for side in SIDES]
    resident = ["-" if not found["resident"] else _spread(found["resident"][side]) for side in SIDES]
    return "| " + " | ".join([name, f"{found['weights'] / 2**20:.0f}", *tensors, *resident]) + " |"


def _spread(seen: list[int]) -> str:
    return f"{statistics.median(seen) / 2**20:.0f} [{seen[0] / 2**20:.0f}, {seen[-1] / 2**20:.0f}]"


def measure(name: str, pairs: int, runs: int) -> dict[str, Any]:
    template = build(name)
    check(name, template)
    return {
        "time": measure_time(name, template, pairs),
        "tensors": {side: tensor_bytes(convert, template) for side, convert in SIDES.items()},
        "resident": measure_resident(name, runs) if runs else {},
        "weights": sum(p.numel() * p.element_size() for p in template.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of timed conversions (default 9)")
    parser.add_argument("--memory-runs", type=int, default=5, help="processes a side for the resident set; 0 skips it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak_of(*args.peak))
        return
    found: dict[str, Any] = {}
    print(HEAD.format(pairs=args.pairs))
    for name in args.models or MODELS:
        found[name] = measure(name, args.pairs, args.memory_runs)
        print(time_row(name, found[name]["time"]), flush=True)
    print(MEMORY.format(runs=args.memory_runs))
    for name, row in found.items():
        print(memory_row(name, row))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
