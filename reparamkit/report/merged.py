"""merged: one merge, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Step:
    """One operation of a region, for drawings.

    Attributes:
        label: what it is.
        inputs: places of the steps it reads; -1 is the input of the region.
    """

    label: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """One merge.

    Attributes:
        path: the module that holds the result.
        kind: "swap" (modules exchanged), "rewrite" (the module's forward calls `path`) or "transform" (the module at
            `path` was written anew by a rule that is not linear algebra).
        rules: ids of the rules used.
        before: what was there.
        after: what is there now.
        params_before: numbers stored in what was there.
        params_after: numbers stored now.
        macs_before: multiply-accumulates per position of the region's input; 0 for a transform, which does not say.
        macs_after: likewise, now.
        error: largest relative deviation in float64; `None` in a plan, or when verification is off.
        graph: what was there, operation by operation.
    """

    path: str
    kind: str
    rules: tuple[str, ...]
    before: str
    after: str
    params_before: int
    params_after: int
    macs_before: float
    macs_after: float
    error: float | None = None
    graph: tuple[Step, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the drawing."""
        return {key: value for key, value in asdict(self).items() if key != "graph"}
