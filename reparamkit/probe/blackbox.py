"""A module as a black box: a float64 copy is run, and whatever it does besides answering is noticed."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from reparamkit.errors import Refusal
from reparamkit.mode import Mode
from reparamkit.probe.state import same


class Unmeasurable(Exception):
    """Why a module is not taken for an operator; carries the `Refusal`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(code, reason)


class BlackBox:
    """A float64 copy of a module.

    Attributes:
        device: where its inputs have to be.
        calls: how often it was called.
        macs: multiply-accumulates of the last call, as far as torch operators show them.
    """

    def __init__(self, module: nn.Module) -> None:
        try:
            self._copy = copy.deepcopy(module).double()
            self._kept = copy.deepcopy(self._copy)
        except Exception as error:  # a module may refuse to be copied in any way; then it stays as it is
            raise Unmeasurable("RK612", f"it cannot be copied: {type(error).__name__}: {error}") from error
        first = next((t for t in (*module.parameters(), *module.buffers())), None)
        self.device = torch.device("cpu") if first is None else first.device
        self.calls = 0
        self.macs = 0

    def __call__(self, x: Tensor) -> Tensor:
        """What the module returns for `x`, float64.

        Raises:
            Unmeasurable: RK612 when it raises, changes `x`, returns it, or returns something else than one float64
                tensor with the batch in front.
        """
        given, counter = x.clone(), _Counter()
        self.calls += 1
        try:
            with kept_random(self.device, self.calls), counter:
                y = self._copy.forward(given)
        except Exception as error:  # the user's code; that it cannot run is the answer
            text = str(error).strip().split("\n", 1)[0]
            raise Unmeasurable("RK612", f"on {_sizes(x)}: {type(error).__name__}: {text}") from error
        self.macs = counter.flops // 2
        if not isinstance(y, Tensor) or y.dtype != torch.float64:
            kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise Unmeasurable("RK612", f"it returns {kind} for a float64 tensor")
        if not torch.equal(given, x):
            raise Unmeasurable("RK612", "it changes its input")
        if y.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
            raise Unmeasurable("RK612", "it returns its input, or a view of it")
        if y.ndim != x.ndim or y.shape[0] != x.shape[0]:
            raise Unmeasurable("RK612", f"it returns {_sizes(y)} for {_sizes(x)}")
        return y.detach()

    def check_state(self) -> None:
        """Raise `Unmeasurable` RK612 when the calls so far have changed the module."""
        changed = same(self._kept, self._copy)
        if changed:
            raise Unmeasurable("RK612", f"a call changes its {changed}")


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


class _Counter(Mode):
    """Counts floating-point operations; `FlopCounterMode` puts hooks on every module of the process to do so."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=made))
        return made


@contextmanager
def kept_random(device: torch.device, seed: int) -> Iterator[None]:
    """Other random numbers for each `seed`, so that drawing them shows; afterwards the states are what they were."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), None if numpy is None else numpy.random.get_state()
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        random.seed(seed)
        if numpy is not None:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            if numpy is not None:
                numpy.random.set_state(states[1])
