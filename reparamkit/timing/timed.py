"""timed: what a policy wants timed, and what the stopwatch said. Values only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reparamkit.timing.job import Job

Jobs = tuple[Job, ...]


@dataclass(frozen=True)
class Timing:
    """How ways are timed.

    Attributes:
        engine: "eager", "compile", "onnxruntime" or "openvino".
        seconds: how long one conversion may spend on it; a question that was begun is answered.
        answers: verdicts by `digest` of a conversion that is to be repeated; with them, nothing is timed.
    """

    engine: str = "eager"
    seconds: float = 10.0
    answers: Mapping[str, bool | None] | None = field(default=None, repr=False, hash=False)

    def told(self, new: Jobs, old: Jobs) -> Timed | None:
        """The answer among `answers`, if it is there."""
        key, answers = digest(new, old), self.answers or {}
        return Timed(new, old, answers[key]) if key in answers else None


@dataclass(frozen=True)
class Timed:
    """One question and its answer.

    Attributes:
        new: jobs of the one way that the other has not.
        old: those of the other.
        verdict: whether `new` is faster; `None` when the middle half of the rounds' ratios has 1 in it.
        ratio: time of `new` over time of `old`: first quartile, median, third quartile; `None` where the answer was
            known.
        rounds: how many.
    """

    new: Jobs
    old: Jobs
    verdict: bool | None
    ratio: tuple[float, float, float] | None = None
    rounds: int = 0

    def __str__(self) -> str:
        word = {True: "faster", False: "slower", None: "no difference"}[self.verdict]
        low, middle, high = self.ratio or (0.0, 0.0, 0.0)
        times = f", {middle:.2f} [{low:.2f}, {high:.2f}] times as long" if self.ratio else ", as told"
        return f"{_joined(self.new)} instead of {_joined(self.old)}: {word}{times}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        told = {"new": [str(job) for job in self.new], "old": [str(job) for job in self.old], "faster": self.verdict}
        return {**told, "ratio": self.ratio, "rounds": self.rounds, "digest": digest(self.new, self.old)}


@dataclass(frozen=True)
class Timings:
    """All that was timed for one conversion.

    Attributes:
        engine: what ran.
        threads: of it.
        seconds: how long it could take.
        used: how long it took; what an earlier conversion timed costs nothing.
        questions: what was asked, in order.
        unasked: how many questions there was no time left for; `score` decided those.
    """

    engine: str
    threads: int
    seconds: float
    used: float
    questions: tuple[Timed, ...]
    unasked: int = 0

    @property
    def answers(self) -> dict[str, bool | None]:
        """Every verdict by its `digest`."""
        return {digest(one.new, one.old): one.verdict for one in self.questions}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "questions": [one.to_dict() for one in self.questions]}

    def __str__(self) -> str:
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        took = f"{self.used:.1f} of {self.seconds:g} s"
        left = f", no time left for {self.unasked} more" if self.unasked else ""
        lines = [f"timed in {self.engine}, {threads}, {took}: {len(self.questions)} questions{left}"]
        return "\n".join([*lines, *(f"  {one}" for one in self.questions)])


def digest(new: Jobs, old: Jobs) -> str:
    """What a question is called in files: the geometries, whatever machine, dtype or device they are for."""
    text = json.dumps([[str(job) for job in new], [str(job) for job in old]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _joined(jobs: Jobs) -> str:
    return " + ".join(str(job) for job in jobs)
