"""stopwatch: which of two lists of jobs is faster here, found by running both.

What both lists have in common is left out, so a question is about what differs: two branches or their sum, a chain or
one large kernel, a depthwise convolution beside a pointwise one or both as one dense kernel. Both sides run in turns
until the middle half of the rounds' ratios lies on one side of 1, at most `ROUNDS` times; where one side takes half as
long again every time, three rounds will do. Answers are kept by geometry for the life of the process; numbers of the
model are never read. A stopwatch has so many seconds: when they are used up, what was not asked yet has no answer.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from reparamkit.progress import tell
from reparamkit.timing.job import Job
from reparamkit.timing.rig import Rig
from reparamkit.timing.timed import Jobs, Timed, Timing, Timings

ROUNDS = 15
FEWEST = 5
FEWEST_WHEN_PLAIN = 3
PLAIN = 0.5  # every round says that one takes half as long again, or more
SECONDS = 0.01  # of one side in one round, at least

_known: dict[tuple[str, int, Jobs, Jobs], Timed] = {}


@dataclass
class Stopwatch:
    """Answers questions for one conversion.

    Attributes:
        timing: the engine, the seconds it has, and answers that are known from elsewhere.
        timed: what was asked, by what differs.
        unasked: how many questions there was no time left for.
        used: seconds used so far.
    """

    timing: Timing
    timed: dict[tuple[Jobs, Jobs], Timed] = field(default_factory=dict)
    unasked: set[tuple[Jobs, Jobs]] = field(default_factory=set)
    used: float = 0.0

    def faster(self, new: tuple[Job | None, ...], old: tuple[Job | None, ...]) -> bool | None:
        """Whether running the jobs of `new` takes less time than those of `old`; `None` when that cannot be told."""
        mine, theirs = Counter(new), Counter(old)
        first, second = mine - theirs, theirs - mine
        if None in first or None in second:
            return None
        question = _listed(first), _listed(second)
        if not all(question):
            return len(question[0]) < len(question[1])
        if question not in self.timed:
            answer = self._answer(*question)
            if answer is None:
                self.unasked.add(question)
                return None
            self.timed[question] = answer
        return self.timed[question].verdict

    @property
    def timings(self) -> Timings:
        """What was timed so far."""
        asked, unasked = tuple(self.timed.values()), len(self.unasked)
        return Timings(self.timing.engine, torch.get_num_threads(), self.timing.seconds, self.used, asked, unasked)

    def _answer(self, new: Jobs, old: Jobs) -> Timed | None:
        if self.timing.answers is not None:
            return self.timing.told(new, old)
        key = (self.timing.engine, torch.get_num_threads(), new, old)
        if key not in _known:
            left = self.timing.seconds - self.used
            if left <= 0:
                return None
            start = time.perf_counter()
            _known[key] = _decided(new, old, self.timing.engine, left)
            self.used += time.perf_counter() - start
            tell("timing, seconds", round(self.used), round(self.timing.seconds))
        return _known[key]


def _listed(jobs: Counter[Any]) -> Jobs:
    return tuple(sorted(jobs.elements(), key=repr))


def _decided(new: Jobs, old: Jobs, engine: str, seconds: float) -> Timed:
    """Time both, within so many seconds as soon as there are enough rounds."""
    end = time.perf_counter() + seconds
    sides = [_running(jobs, engine) for jobs in (new, old)]
    ratios: list[float] = []
    for ratio in _ratios(*sides):
        ratios.append(ratio)
        plain = min(ratios) > 1 + PLAIN or max(ratios) < 1 / (1 + PLAIN)
        if len(ratios) < (FEWEST_WHEN_PLAIN if plain else FEWEST):
            continue
        low, middle, high = statistics.quantiles(ratios, n=4)
        if not low <= 1 <= high or len(ratios) == ROUNDS or time.perf_counter() > end:
            return Timed(new, old, None if low <= 1 <= high else high < 1, (low, middle, high), len(ratios))
    raise AssertionError("the last round returns")


def _ratios(first: Callable[[], Any], second: Callable[[], Any]) -> Iterator[float]:
    """Time of the first over that of the second, round by round, the order changing from round to round."""
    for side in (first, second):
        _time(side, 2)
    calls = max(1, round(SECONDS / max(min(_time(side, 1) for side in (first, second)), 1e-6)))
    for turn in range(ROUNDS):
        if turn % 2:
            mine, theirs = _time(first, calls), _time(second, calls)
        else:
            theirs, mine = _time(second, calls), _time(first, calls)
        yield mine / theirs


def _time(side: Callable[[], Any], calls: int) -> float:
    """Seconds; on one thread of the processor the time it worked, which other processes do not disturb."""
    clock = time.perf_counter if torch.get_num_threads() > 1 or torch.cuda.is_available() else time.process_time
    start = clock()
    for _ in range(calls):
        side()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def _running(jobs: Jobs, engine: str) -> Callable[[], Any]:
    """The jobs in an engine, ready to run."""
    rig = Rig(jobs)
    inputs = rig.inputs
    if engine == "eager":
        return lambda: rig(*inputs)
    from reparamkit.bench.engines import running

    # As a graph each has code of its own: torch.compile keeps no more than a few compilations of one code.
    run = running(make_fx(rig)(*inputs) if engine == "compile" else rig, engine, inputs)
    return lambda: run(*inputs)
