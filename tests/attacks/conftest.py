"""What every attack is held to: nothing is run, sent, written or removed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
    "shutil.rmtree",
)
_seen: list[list[str]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _seen:
        return
    if event in FORBIDDEN:
        _seen[-1].append(f"{event} {args[:1]}")
    elif event == "open" and _writes(args[1]) and "__pycache__" not in str(args[0]):
        _seen[-1].append(f"writes {args[0]}")


def _writes(mode: object) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


sys.addaudithook(_hook)  # it cannot be taken away again, so it looks only while a test wants it to


@pytest.fixture
def harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, in which nothing may have happened by the end that the test did not do itself.

    Files are made with `Path.write_text` and `write_bytes` before the attack; see `attacking`.
    """
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "harmed").exists(), "the attack ran its code"


@pytest.fixture
def attacking() -> Iterator[list[str]]:
    """Watches the process from here on: whatever it runs, sends, writes or removes fails the test."""
    seen: list[str] = []
    _seen.append(seen)
    yield seen
    _seen.pop()
    assert seen == []
