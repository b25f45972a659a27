"""The bound on a command's time, `--timeout`: first it is interrupted, and what does not let itself be is ended."""

from __future__ import annotations

import _thread
import os
import sys
import threading

GRACE = 5.0  # seconds between the two
CODE = 5
_expired = threading.Event()


def start(seconds: float) -> None:
    """Interrupt the main thread after `seconds`, as Ctrl-C does: a conversion is taken back, no file is half written.

    Code that swallows the interrupt, or never comes back to Python, is ended `GRACE` seconds later.
    """
    for delay, act in ((seconds, _interrupt), (seconds + GRACE, _end)):
        timer = threading.Timer(delay, act, (seconds,))
        timer.daemon = True
        timer.start()


def expired() -> bool:
    """Whether the interrupt that came is this one."""
    return _expired.is_set()


def _interrupt(seconds: float) -> None:
    _expired.set()
    print(f"reparamkit: took longer than --timeout {seconds:g} s", file=sys.stderr, flush=True)
    _thread.interrupt_main()


def _end(seconds: float) -> None:
    os._exit(CODE)
