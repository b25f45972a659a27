"""reasons: why a forward could not be traced, from the exception it ended with."""

from __future__ import annotations

import dis
import linecache
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from reparamkit.trace.proxies import Missing
from reparamkit.trace.watch import Untraceable

if TYPE_CHECKING:
    from collections.abc import Iterable

_RAISING = frozenset({"RAISE_VARARGS", "UNPACK_SEQUENCE", "UNPACK_EX"})  # so many sizes there are not
_HERE = Path(__file__).parent


def raises_itself(error: Exception) -> bool:
    """Whether the user's own code raised it, so that a real call would end there too."""
    if isinstance(error, Missing):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or isinstance(error, Untraceable):
        return False
    code = last.tb_frame.f_code
    home = str(last.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    there = isinstance(error, IndexError) or dis.opname[code.co_code[last.tb_lasti]] in _RAISING
    return there and home not in ("torch", "reparamkit")


def reason_of(error: Exception) -> str:
    """What it says, and the line of the user's code where it came from."""
    text = str(error).split("\n", 1)[0].strip() or type(error).__name__
    place = _place(error)
    return f"{text} (at {place})" if place else text


def _place(error: Exception) -> str:
    """File, line and text of the innermost frame that is the user's."""
    frames: Iterable[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    for frame in reversed(list(frames)):
        parts = Path(frame.filename).parts
        if "torch" in parts or Path(frame.filename).parent == _HERE:
            continue
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        return f"{'/'.join(parts[-2:])}:{frame.lineno} `{line}`"
    return ""
