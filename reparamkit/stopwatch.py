"""stopwatch: which of two lists of operators is faster here, found by running both.

What both lists have in common is left out, so a question is about what differs: two branches or their sum, a chain or
one large kernel, a depthwise convolution beside a pointwise one or both as one dense kernel. Both sides run in turns
until the middle half of the rounds' ratios lies on one side of 1, at most `ROUNDS` times. Layers run one by one, as in
eager mode: a compiler that fuses what it meets may order them otherwise. Answers are kept by geometry
for the life of the process; numbers of the model are never read.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reparamkit.job import Job

ROUNDS = 15
FEWEST = 5
SECONDS = 0.01  # of one side in one round, at least
_CONVS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def faster(new: tuple[Job | None, ...], old: tuple[Job | None, ...]) -> bool | None:
    """Whether running the jobs of `new` takes less time than those of `old`; `None` when that cannot be told."""
    mine, theirs = Counter(new), Counter(old)
    first, second = mine - theirs, theirs - mine
    if None in first or None in second:
        return None
    return _decided(_listed(first), _listed(second), torch.get_num_threads())


def _listed(jobs: Counter[Any]) -> tuple[Job, ...]:
    return tuple(sorted(jobs.elements(), key=repr))


@cache
def _decided(new: tuple[Job, ...], old: tuple[Job, ...], threads: int) -> bool | None:
    if not new or not old:
        return len(new) < len(old)
    sides = [[_runnable(job) for job in jobs] for jobs in (new, old)]
    for side in sides:
        _time(side, 2)
    calls = max(1, round(SECONDS / max(min(_time(side, 1) for side in sides), 1e-6)))
    ratios: list[float] = []
    for turn in range(ROUNDS):
        first, second = (_time(side, calls) for side in (sides if turn % 2 else reversed(sides)))
        ratios.append(first / second if turn % 2 else second / first)
        if len(ratios) >= FEWEST:
            low, _, high = statistics.quantiles(ratios, n=4)
            if not low <= 1 <= high:
                return high < 1
    return None


def _time(side: list[Callable[[], Any]], calls: int) -> float:
    """Seconds; on one thread of the processor the time it worked, which other processes do not disturb."""
    clock = time.perf_counter if torch.get_num_threads() > 1 or torch.cuda.is_available() else time.process_time
    start = clock()
    for _ in range(calls):
        for run in side:
            run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def _runnable(job: Job) -> Callable[[], Any]:
    """The job on numbers of its own."""
    options: dict[str, Any] = {"dtype": job.dtype, "device": job.device}
    x = torch.ones(job.batch, job.channels, *job.size, **options)
    if job.channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if job.kind == "add":
        other = x.clone()
        return lambda: torch.add(x, other)
    if job.kind == "scale":
        one, zero = torch.ones(job.channels, **options), torch.zeros(job.channels, **options)
        return lambda: F.batch_norm(x, zero, one, one, zero)
    weight = torch.ones(job.weight, **options)
    if job.kind == "transposed":
        run = _TRANSPOSED[len(job.size)]
        return lambda: run(x, weight, None, job.stride, 0, 0, job.groups, job.dilation)
    if not job.size:
        return lambda: F.linear(x, weight)
    pads = [max(pad) for pad in job.padding]
    conv = _CONVS[len(job.size)]
    return lambda: conv(x, weight, None, job.stride, pads, job.dilation, job.groups)
