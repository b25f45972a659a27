"""chance: a model is run, draws the same numbers each time, and nobody else in the process notices.

The generators of torch, Python and numpy belong to the process: other threads may draw from them meanwhile. Most models
draw nothing, and for those they are not touched, not even to be put back. One that draws is found out at its first
draw, and is run again from generators with a seed, which stand afterwards where they stood.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reparamkit.mode import Mode
from reparamkit.paths import modules_under

R = TypeVar("R")


class _Draws(BaseException):
    """The model draws a random number; it may catch exceptions, so this is none of them."""


class _Watch(Mode):
    """Stops what would draw from a generator of torch; only this thread sees it."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self.drew = True
            raise _Draws
        return func(*args, **(kwargs or {}))


def settled(run: Callable[[], R], model: nn.Module) -> R:
    """What `run` gives, with the same random numbers each time.

    Args:
        run: may be called twice, and must begin anew each time.
        model: what it runs.

    Raises:
        Exception: whatever `run` raises.
    """
    state, others, watch = torch.get_rng_state(), _others(), _Watch()
    found: list[R] = []
    # What cannot be run while it is watched is run again, and says why if that fails.
    with suppress(_Draws, Exception), watch:
        found.append(run())
    seeded, drew = _seeded_since(state), _others() != others
    if found and not (watch.drew or seeded or drew):
        return found[0]
    if seeded:
        torch.set_rng_state(state)
    if drew:
        _put_back(others)
    with _kept(model):
        torch.manual_seed(0)
        return run()


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the generators stand where they stood, whatever `model` draws meanwhile."""
    devices = {t.device for _, m in modules_under(model) for t in m._parameters.values() if t is not None and t.is_cuda}
    others = _others()
    try:
        with torch.random.fork_rng(devices=sorted(d.index for d in devices)):
            yield
    finally:
        _put_back(others)


def _seeded_since(state: Tensor) -> bool:
    """Whether torch's generator was given a seed; that it moved on alone may be another thread's doing."""
    now = torch.get_rng_state()
    if torch.equal(now, state):
        return False
    then = torch.Generator()
    then.set_state(state)
    seed = torch.initial_seed()
    return seed != then.initial_seed() or torch.equal(now, torch.Generator().manual_seed(seed).get_state())


def _others() -> tuple[Any, Any]:
    """Where the generators of Python and numpy stand."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return random.getstate(), None
    name, keys, *rest = numpy.random.get_state()
    return random.getstate(), (name, tuple(keys.tolist()), *rest)


def _put_back(others: tuple[Any, Any]) -> None:
    random.setstate(others[0])
    if others[1] is not None:
        sys.modules["numpy"].random.set_state(others[1])
