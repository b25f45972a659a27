"""Policies: what may be replaced, and by how good a replacement. A recipe names one; a plugin may bring more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reparamkit.errors import ModelError
from reparamkit.timing.timed import Timing

if TYPE_CHECKING:
    from reparamkit.decide.cost import Cost
    from reparamkit.timing.stopwatch import Stopwatch


@dataclass(frozen=True)
class Policy:
    """What may be replaced, and by how good a replacement.

    Attributes:
        name: how recipes call it.
        allows: whether a region of the first cost may become one operator of the second.
        score: what is minimised.
        about: one line for people.
        timing: with it, ways of which neither is plainly less work are timed, and `score` is asked where that tells
            nothing. Such a policy needs `example_inputs`.
    """

    name: str
    allows: Callable[[Cost, Cost], bool]
    score: Callable[[Cost], float]
    about: str = ""
    timing: Timing | None = None

    def with_answers(self, answers: Mapping[str, bool | None]) -> Policy:
        """This policy, for a decision that was made before: nothing is timed again."""
        return self if self.timing is None else replace(self, timing=replace(self.timing, answers=answers))

    def prefers(self, new: Cost, old: Cost, clock: Stopwatch | None = None) -> bool:
        """Whether the first of two ways is the better one; with a clock that may be found out by running them."""
        if clock is None:
            return self.score(new) < self.score(old) - 1e-9
        if new.at_most(old) or old.at_most(new):
            return not old.at_most(new)
        verdict = clock.faster(new.jobs, old.jobs) if new.jobs and old.jobs else None
        return self.score(new) < self.score(old) if verdict is None else verdict


def _cheaper(before: Cost, after: Cost) -> bool:
    return after.macs <= before.macs * (1 + 1e-9) and after.params <= before.params + before.buffers


CHEAPER = Policy(
    "cheaper", _cheaper, lambda cost: cost.score, "never more multiply-accumulates or stored numbers than before"
)
ALWAYS = Policy("always", lambda before, after: True, lambda cost: cost.ops * 1e12 + cost.score, "every exact merge")


_ENGINES = {  # what people call it, and seconds that one conversion may spend: all but the first compile what they time
    "eager": ("eager mode", 10.0),
    "compile": ("torch.compile", 120.0),
    "onnxruntime": ("ONNX Runtime", 120.0),
    "openvino": ("OpenVINO", 120.0),
}


def measured(engine: str = "eager", *, seconds: float | None = None) -> Policy:
    """The policy that makes what is faster on this machine, for inputs of the size of `example_inputs`.

    Args:
        engine: "eager", "compile", "onnxruntime" or "openvino": what the model will run in.
        seconds: how long one conversion may spend on timing; by default 10 in eager mode and 120 in the others, which
            compile what they time. Layers of one geometry are timed once in a process. What there is no time left
            for is decided as `cheaper` would.

    Raises:
        ModelError: RK104 for an engine that is not known.
    """
    if engine not in _ENGINES:
        raise ModelError("RK104", f"engine {engine!r}: expected one of {', '.join(_ENGINES)}")
    about, usual = _ENGINES[engine]
    return Policy(
        "measured" if engine == "eager" else f"measured_{engine}",
        lambda before, after: True,
        lambda cost: cost.score,
        f"what is faster on this machine in {about}, for inputs of the size of example_inputs",
        Timing(engine, usual if seconds is None else seconds),
    )


POLICIES = (CHEAPER, ALWAYS, *map(measured, _ENGINES))
