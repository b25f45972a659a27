"""Memory that a conversion takes beyond the model: of the process, and handed out by torch."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

Convert = Callable[[nn.Module], nn.Module]


def resident_bytes(convert: Convert, model: nn.Module) -> int:
    """The largest resident set during one conversion minus the one before it; for a process of its own."""
    gc.collect()
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before, after = _status("VmRSS"), lambda: _status("VmHWM")
    except OSError:  # elsewhere than on Linux the mark of building the model stays in
        before, after = _maxrss(), _maxrss
    convert(model)
    return max(after() - before, 0)


def tensor_bytes(convert: Convert, template: nn.Module) -> tuple[int, int]:
    """Bytes of tensors beyond those before one conversion: the most during it, and what is left after it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = copy.deepcopy(template)
        gc.collect()
        with record_function("conversion"):
            convert(model)
    found = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    start = next(event.start_ns() for event in found if event.name() == "conversion")
    changes = sorted((event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]")
    levels = list(accumulate((size for when, size in changes if when >= start), initial=0))
    return max(levels), levels[-1]


def _status(key: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(ln for ln in Path("/proc/self/status").read_text().splitlines() if ln.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _give_back() -> None:
    """Return freed memory to the system, or what building the model left over would be used unseen (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _maxrss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
