"""Time of two models, measured in turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer

from reparamkit.progress import watched

ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Latency:
    """Time of the first model divided by that of the second, round by round.

    Attributes:
        engine: what ran them.
        ratio: the median.
        low: first quartile.
        high: third quartile.
        before: median seconds of the first model.
        after: likewise of the second.
        rounds: how many.
        threads: of the engine.
    """

    engine: str
    ratio: float
    low: float
    high: float
    before: float
    after: float
    rounds: int
    threads: int = 1

    @property
    def differs(self) -> bool:
        """Whether the middle half of the rounds lies on one side of 1."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        spread = f"interquartile range {self.low:.2f} .. {self.high:.2f}, {self.rounds} rounds, {threads}"
        times = f"{self.before * 1e3:.2f} ms -> {self.after * 1e3:.2f} ms"
        if not self.differs:
            return f"no difference within the spread ({times}; ratio {self.ratio:.2f}, {spread})"
        word = "shorter" if self.ratio > 1 else "LONGER"
        return f"{max(self.ratio, 1 / self.ratio):.2f} times {word} ({times}; {spread})"


def latency(
    before: Callable[..., Any],
    after: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Any = None,
    *,
    engine: str = "eager",
    rounds: int = 15,
    threads: int = 1,
    seconds: float = ROUND_SECONDS,
) -> Latency:
    """Time two callables on one input.

    Args:
        before: the first.
        after: the second.
        args: positional arguments.
        kwargs: keyword arguments.
        engine: a name for the result.
        rounds: both are timed once a round, the order changing from round to round.
        threads: compute threads of torch.
        seconds: how long one of them is timed in a round, at least
            (`torch.utils.benchmark.Timer.blocked_autorange`).
    """
    timers = [
        Timer(
            "model(*args, **kwargs)",
            globals={"model": model, "args": args, "kwargs": kwargs or {}},
            num_threads=threads,
        )
        for model in (before, after)
    ]
    measured: list[tuple[float, float]] = []
    with torch.inference_mode():
        for timer in timers:
            timer.timeit(3)
        for number in watched(range(rounds), f"timing, {engine}"):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {i: timers[i].blocked_autorange(min_run_time=seconds).median for i in order}
            measured.append((found[0], found[1]))
    ratios = [first / second for first, second in measured]
    low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
    first_median, second_median = (statistics.median(column) for column in zip(*measured, strict=True))
    return Latency(engine, middle, low, high, first_median, second_median, rounds, threads)
