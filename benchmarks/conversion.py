"""What a conversion costs: `reparamkit.apply(inplace=True)`, every merge proven, against timm's own converter.

Time: both in this process, one compute thread, in pairs whose order alternates; the figure is the median of the
ratios timm / reparamkit of the pairs, with their quartiles. Memory: each conversion in a fresh process, the largest
resident set during the conversion minus the one before it. Before a figure is shown, it is checked that the model
collapsed as far as it should and computes the same.

Tensors: the same without the noise of an allocator: bytes that torch has handed out, at the most during one
conversion and after it, beyond those before it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import reparamkit

# Convolutions that may be left.
MODELS = {"repvgg_a0": 22, "mobileone_s4": 67, "repvgg_b3": 28, "mobileone_s0": 43, "fastvit_t8": 52}


def by_reparamkit(model: nn.Module) -> nn.Module:
    return reparamkit.apply(model, inplace=True)


def by_timm(model: nn.Module) -> nn.Module:
    return reparameterize_model(model, inplace=True)


SIDES: dict[str, Callable[[nn.Module], nn.Module]] = {"reparamkit": by_reparamkit, "timm": by_timm}


def build(name: str) -> nn.Module:
    """The model with batch norms that are not the identity, or a fold could be skipped unseen."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    return model.eval()


def counts(model: nn.Module) -> tuple[int, int]:
    modules = list(model.modules())
    return sum(isinstance(m, nn.Conv2d) for m in modules), sum(isinstance(m, nn.BatchNorm2d) for m in modules)


def check(name: str, side: str, model: nn.Module) -> None:
    """Stop when `model` is not what a conversion should give."""
    convs, norms = counts(model)
    if convs > MODELS[name] or (norms and side == "reparamkit"):
        sys.exit(f"{name}: {side} left {convs} convolutions (expected {MODELS[name]}) and {norms} batch norms")


def check_outputs(name: str, template: nn.Module) -> None:
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for side, convert in SIDES.items():
            comparison = reparamkit.verify(template, convert(copy.deepcopy(template)), x)
            if comparison.error > comparison.allowed:
                sys.exit(f"{name}: {side} is {comparison.error:.2g} off")


def timed(name: str, side: str, template: nn.Module) -> tuple[float, float]:
    """CPU and wall seconds of one conversion."""
    model = copy.deepcopy(template)
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    model = SIDES[side](model)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    check(name, side, model)
    return cpu, wall


def measure_time(name: str, pairs: int) -> dict[str, Any]:
    template = build(name)
    check_outputs(name, template)
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for pair in range(pairs):
        for side in list(SIDES) if pair % 2 else reversed(list(SIDES)):
            found[side].append(timed(name, side, template))
    result: dict[str, Any] = {"pairs": pairs}
    for index, clock in enumerate(("cpu", "wall")):
        ours, theirs = ([run[index] for run in found[side]] for side in ("reparamkit", "timm"))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        result[clock] = {
            "reparamkit_s": statistics.median(ours),
            "timm_s": statistics.median(theirs),
            "ratio": quartiles(ratios),
        }
    return result


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def status(key: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(ln for ln in Path("/proc/self/status").read_text().splitlines() if ln.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def peak_of(name: str, side: str) -> int:
    """Extra resident bytes during one conversion; for a process of its own."""
    SIDES[side](build("repvgg_a0" if name != "repvgg_a0" else "mobileone_s0"))  # load code and libraries first
    model = build(name)
    gc.collect()
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before, after = status("VmRSS"), lambda: status("VmHWM")
    except OSError:  # elsewhere than on Linux the mark of building the model stays in
        before, after = maxrss(), maxrss
    model = SIDES[side](model)
    peak = after() - before
    check(name, side, model)
    return max(peak, 0)


def give_back() -> None:
    """Return freed memory to the system, or what building the model left over would be used unseen (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def maxrss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(name: str, runs: int) -> dict[str, Any]:
    found: dict[str, list[int]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            command = [sys.executable, __file__, "--peak", name, side]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found[side].append(int(done.stdout.split()[-1]))
    ours, theirs = (statistics.median(found[side]) for side in ("reparamkit", "timm"))
    return {
        "runs": runs,
        "reparamkit_bytes": ours,
        "timm_bytes": theirs,
        "ratio": ours / theirs if theirs else None,
        "all_bytes": found,
    }


def tensor_bytes(side: str, template: nn.Module) -> tuple[int, int]:
    """Bytes of tensors beyond those before one conversion: the most during it, and what is left after it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = copy.deepcopy(template)
        gc.collect()
        with record_function("conversion"):
            SIDES[side](model)
    found = seen.profiler.kineto_results.events()
    start = next(event.start_ns() for event in found if event.name() == "conversion")
    changes = sorted((event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]")
    levels = list(accumulate((size for when, size in changes if when >= start), initial=0))
    return max(levels), levels[-1]


def measure_tensors(name: str) -> dict[str, tuple[int, int]]:
    template = build(name)
    return {side: tensor_bytes(side, template) for side in SIDES}


def show(name: str, result: dict[str, Any]) -> None:
    for clock in ("cpu", "wall"):
        if clock in result:
            row, (low, mid, high) = result[clock], result[clock]["ratio"]
            print(
                f"{name:14} {clock:5} {row['reparamkit_s'] * 1e3:9.1f} ms {row['timm_s'] * 1e3:9.1f} ms   "
                f"{mid:5.2f}x faster [{low:.2f}, {high:.2f}]"
            )
    if "memory" in result:
        row = result["memory"]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:5.2f} of timm's"
        spread = "; ".join(
            f"{side} {min(seen) / 2**20:.1f} to {max(seen) / 2**20:.1f}" for side, seen in row["all_bytes"].items()
        )
        print(
            f"{name:14} peak  {row['reparamkit_bytes'] / 2**20:9.1f} MB {row['timm_bytes'] / 2**20:9.1f} MB   "
            f"{ratio} [{spread}]"
        )
    for index, what in enumerate(("most", "left")):
        ours, theirs = (result["tensors"][side][index] / 2**20 for side in ("reparamkit", "timm"))
        ratio = f"{ours / theirs:5.2f} of timm's" if what == "most" else ""
        print(f"{name:14} {what:5} {ours:9.1f} MB {theirs:9.1f} MB   {ratio}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of timed conversions (default 9)")
    parser.add_argument("--memory-runs", type=int, default=5, help="processes a side for the peak; 0 skips it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak_of(*args.peak))
        return
    unknown = set(args.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    versions = {"torch": torch.__version__, "timm": timm.__version__, "reparamkit": reparamkit.__version__}
    versions |= {"python": platform.python_version(), "machine": platform.machine()}
    print(", ".join(f"{key} {value}" for key, value in versions.items()), "- one compute thread")
    print(f"{'model':14} {'':5} {'reparamkit':>12} {'timm':>12}   timm / reparamkit: median of pairs [quartiles]")
    results = {}
    for name in args.models or MODELS:
        result = measure_time(name, args.pairs) if args.pairs else {}
        if args.memory_runs:
            result["memory"] = measure_memory(name, args.memory_runs)
        result["tensors"] = measure_tensors(name)
        results[name] = result
        show(name, result)
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "models": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
