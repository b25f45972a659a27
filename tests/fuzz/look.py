"""One generated model, looked at. A module of its own, so that the processes of a pool find it."""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.fuzz.oracle import Finding, Unfit, check
from tests.fuzz.shrink import finding, shrunk
from tests.fuzz.writer import program

SECONDS = 120  # of one seed; most take a twentieth of one


class TooLong(BaseException):
    """A seed takes too long; no `Exception`, so that nothing on the way takes it for an answer."""


def look(seed: int) -> tuple[Counter[str], str]:
    """What happened with the program of a seed, and a report when something went wrong."""
    torch.set_num_threads(1)
    try:
        with _limited(SECONDS):
            return _looked(seed)
    except TooLong:
        return Counter(findings=1), f"== seed {seed}: takes longer than {SECONDS} s\n{program(seed).text}"
    except Exception:  # of the fuzzer itself: told, not lost
        return Counter(findings=1), f"== seed {seed}: stray\n{traceback.format_exc()}"


def _looked(seed: int) -> tuple[Counter[str], str]:
    seen: Counter[str] = Counter()
    made = program(seed)
    try:
        check(made, seen)
    except Unfit:
        seen["unfit"] += 1
    except Finding as error:
        seen["findings"] += 1
        small = shrunk(made, error.kind)
        return seen, f"== seed {seed}: {finding(small) or error}\n{small.text}"
    return seen, ""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def over(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
