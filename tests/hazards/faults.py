"""Faults: an exception raised at a chosen moment inside the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import reparamkit

PACKAGE = Path(reparamkit.__file__).parent
Here = Callable[[FrameType, str], bool]


class Fault:
    """Raises `error` at the n-th event that `here` accepts; counts them when there is no n."""

    def __init__(self, here: Here, at: int = -1, error: type[BaseException] = OSError) -> None:
        self.here, self.at, self.error, self.count = here, at, error, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.here(frame, event):
            if self.count == self.at:
                raise self.error("injected")
            self.count += 1
        return self if frame.f_code.co_filename.startswith(str(PACKAGE)) else None

    def run(self, action: Callable[[], Any]) -> int:
        """Run `action` under the fault; how many events there were."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            action()
        finally:
            sys.settrace(before)
        return self.count


def edits() -> Here:
    """Before each edit of a model, and when it has been written down but not been made."""
    file = str(PACKAGE / "edits" / "splice.py")

    def here(frame: FrameType, event: str) -> bool:
        return event in ("call", "return") and frame.f_code.co_filename == file and frame.f_code.co_name == "attributes"

    return here


def entering() -> Here:
    """The first call of every function of the package."""
    known: set[Any] = set()

    def here(frame: FrameType, event: str) -> bool:
        if event != "call" or frame.f_code in known or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return False
        known.add(frame.f_code)
        return True

    return here
