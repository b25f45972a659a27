"""The stacks of a function while it runs, looked at a thousand times a second from another thread."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

Stack = tuple[str, ...]
PERIOD = 0.001  # seconds


def sampled(run: Callable[[], Any], package: Path) -> Counter[Stack]:
    """How often each stack was seen.

    Args:
        run: is called once, in this thread.
        package: folder of the code that is looked at; what it calls elsewhere is one frame, named by its library.

    Returns:
        Stacks from the first frame in `package` on, each frame as ``file.py function`` or as a library's name.
    """
    stacks: Counter[Stack] = Counter()
    done, me = threading.Event(), threading.get_ident()

    def watch() -> None:
        while not done.wait(PERIOD):
            frame = sys._current_frames().get(me)
            stack = tuple(_names(frame, package))
            if stack:
                stacks[stack] += 1

    watcher = threading.Thread(target=watch, daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(PERIOD / 10)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
        sys.setswitchinterval(interval)
    return stacks


def _names(frame: FrameType | None, package: Path) -> Iterator[str]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    last, begun = "", False
    for one in reversed(frames):
        name = _name(one, package)
        begun = begun or " " in name
        if begun and name != last and name:
            yield name
            last = name


def _name(frame: FrameType, package: Path) -> str:
    """Of a function of the package its file and name, of another its library; of what decorates one, nothing."""
    code, file = frame.f_code, Path(frame.f_code.co_filename)
    if file.is_relative_to(package):
        hides = code.co_name in ("run", "<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")
        return "" if hides else f"{file.relative_to(package)} {code.co_name}"
    parts = file.parts
    return parts[parts.index("site-packages") + 1] if "site-packages" in parts else "python"
