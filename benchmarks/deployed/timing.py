"""Many callables timed in turns, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Times = dict[str, list[tuple[float, float]]]


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int, seconds: float = 0.1) -> Times:
    """CPU and wall seconds a call of each, round by round, the order shuffled in each round."""
    order, shuffle = list(runs), random.Random(0).shuffle
    found: Times = {name: [] for name in order}
    with torch.inference_mode():
        calls = {name: _calls(run, seconds) for name, run in runs.items()}
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                found[name].append(_timed(runs[name], calls[name]))
    return found


def _calls(run: Callable[[], Any], seconds: float) -> int:
    return max(1, min(200, round(seconds / max(_timed(run, 1)[1], 1e-6))))


def _timed(run: Callable[[], Any], calls: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def ratio(times: Times, first: str, second: str | None, clock: int = 0) -> tuple[float, float, float]:
    """First quartile, median and third quartile of the rounds' ratios; `clock` 0 is CPU time, 1 wall time.

    Without `second`, of the seconds of `first`.
    """
    others = [(1.0, 1.0)] * len(times[first]) if second is None else times[second]
    ratios = [a[clock] / b[clock] for a, b in zip(times[first], others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return low, middle, high
