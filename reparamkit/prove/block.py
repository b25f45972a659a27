"""block: a block that a transform wrote anew against the block itself, in float64.

What is run is what will stand in the model: a copy of the block goes through the same splice. Inputs are random, of
the sizes that were seen in a run of the model, or else of sizes that the first layers of the block ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from reparamkit.block import Seen, Shape
from reparamkit.chance import settled
from reparamkit.edits.splice import Journal, Steps, splice
from reparamkit.errors import Refusal, VerificationError
from reparamkit.survey import HOOKS
from reparamkit.verify import largest_gap

if TYPE_CHECKING:
    from reparamkit.flow import Frame, Value
    from reparamkit.ranges import Ranges
    from reparamkit.rule import Transform

# Positions an axis has beyond the widest kernel where nothing says how many: tried one after the other.
_MORE = (4, 17, 32, 61)
_MARGIN = 256.0  # rounding errors of the narrowest dtype inside the block that two orders of summation may differ by


@dataclass(frozen=True)
class _Case:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def prove_block(
    frame: Frame, steps: Steps, transform: Transform, ranges: Ranges, seen: Seen | None, rtol: float
) -> float | Refusal:
    """Compare a block with what a transform makes of it.

    Args:
        frame: the block.
        steps: what the transform does, by paths below the block.
        transform: for its name, in errors.
        ranges: which inputs are never negative; those are random numbers of one sign.
        seen: what the block was called with in a run of the model.
        rtol: largest deviation allowed, relative to the largest number of the output. More is allowed where the
            block itself computes in a narrower dtype than float64.

    Returns:
        The largest deviation, or a `Refusal` (RK902) when the block cannot be run alone.

    Raises:
        VerificationError: RK901 when it computes something else; names the transform and its plugin.
    """
    original = _bare(copy.deepcopy(frame.module)).double()
    replaced = _bare(copy.deepcopy(frame.module))
    splice(replaced, copy.deepcopy(steps), Journal())
    replaced = replaced.double()
    worst, failure = None, "nothing says what its inputs look like; pass example_inputs"
    for case in _cases(frame, ranges, seen):
        watch = _Narrowest()
        try:
            with watch:
                wanted = _run(original, case)
        except Exception as error:  # the block is the user's code, the sizes were a guess
            failure = f"{type(error).__name__}: {error}; pass example_inputs"
            continue
        try:
            got = _run(replaced, case)
        except Exception as error:  # a layout that the code behind it cannot take, for one
            return Refusal("RK902", f"rewritten by {transform.rule}: {type(error).__name__}: {error}", frame.path)
        error_ = largest_gap(wanted, got)
        allowed = max(rtol, _MARGIN * watch.eps)
        if not error_ <= allowed:
            raise VerificationError(
                "RK901",
                f"{frame.path or '(root)'}: relative error {error_:.3g} in float64, allowed {allowed:.3g}; "
                f"rules: {transform.rule} (plugin {transform.origin})",
            )
        worst = max(worst or 0.0, error_)
        if seen is None:
            break
    return Refusal("RK902", failure, frame.path) if worst is None else worst


def _bare(module: nn.Module) -> nn.Module:
    """`module` without the hooks of its user, which are not to see a proof."""
    for inner in module.modules():
        for name in HOOKS:
            hooks = inner.__dict__.get(name)
            if hooks and "state_dict" not in name:
                inner.__dict__[name] = type(hooks)()
    return module


def _run(module: nn.Module, case: _Case) -> Any:
    def run() -> Any:
        # In-place operations of the block must not reach the next run.
        args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, (case.args, case.kwargs))
        return module(*args, **kwargs)

    with torch.no_grad():
        return settled(run, module)


def _cases(frame: Frame, ranges: Ranges, seen: Seen | None) -> Iterator[_Case]:
    """As seen, and with twice the batch: a view that one sample allows, two may not."""
    placeholders = [str(n.target) for n in frame.traced.graph.nodes if n.op == "placeholder"]
    positive = {n: ranges.nonnegative(v) for n, v in zip(placeholders, frame.inputs, strict=True)}
    if seen is not None:
        yield _filled(frame, seen, positive, 1)
        yield _filled(frame, seen, positive, 2)
        return
    widest = max((_extent(m) for m in frame.module.modules()), default=1)
    for more in _MORE:
        sizes = [_guess(value, widest + more) for value in frame.inputs if not _has_default(value, frame)]
        if sizes and all(sizes):
            yield _filled(frame, Seen(tuple(Shape(s) for s in sizes if s), {}, None), positive, 1)


def _has_default(value: Value, frame: Frame) -> bool:
    named = next((str(n.target) for n, held in frame.values.items() if held is value and n.op == "placeholder"), "")
    return named.startswith("*") or named in frame.traced.fixed


def _guess(value: Value, positions: int) -> tuple[int, ...] | None:
    """A size that the first layer behind the value can take; whether the block can is seen when it is run."""
    reached = [value]
    for behind in reached:
        module = behind.module
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return (2, module.in_channels, *(positions + axis for axis in range(len(module.kernel_size))))
        if isinstance(module, nn.Linear):
            return (2, positions, module.in_features)
        reached += [user for user in behind.users if user not in reached]
    return None


def _extent(module: nn.Module) -> int:
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return 1
    return max(d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True))


def _filled(frame: Frame, seen: Seen, positive: dict[str, bool], batches: int) -> _Case:
    """Random float64 tensors of these sizes; inputs that are never negative get numbers that are not."""
    device = next((p.device for p in frame.module.parameters()), torch.device("cpu"))
    generator = torch.Generator(device=device).manual_seed(20260729)

    def fill(tree: Any, absolute: bool) -> Any:
        return pytree.tree_map(lambda leaf: _tensor(leaf, absolute, batches, generator), tree)

    args = tuple(fill(a, sign) for a, sign in zip_longest(seen.args, list(positive.values())[: len(seen.args)]))
    return _Case(args, {k: fill(v, positive.get(k, False)) for k, v in seen.kwargs.items()})


def _tensor(leaf: Any, absolute: bool, batches: int, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Shape):
        return leaf
    times = [batches, *[1] * (len(leaf.size) - 1)] if len(leaf.size) > 1 else [1] * len(leaf.size)
    if leaf.kept is not None:
        return leaf.kept.repeat(times)
    size = [n * t for n, t in zip(leaf.size, times, strict=True)]
    x = torch.randn(size, generator=generator, device=generator.device, dtype=torch.float64)
    return x.abs() if absolute else x


class _Narrowest(TorchFunctionMode):
    """Rounding error of the narrowest floating-point dtype that anything was computed in; 0 for float64."""

    eps = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype in (torch.float32, torch.float16, torch.bfloat16):
            self.eps = max(self.eps, torch.finfo(made.dtype).eps)
        return made
