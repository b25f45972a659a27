"""output: files that are complete or as they were before."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reparamkit.errors import OutputError


def checked_target(path: Path, *, force: bool, suffix: str = "") -> None:
    """Raise unless `path` can be written: asked before the work, not after it.

    Args:
        path: the file to be.
        force: an existing file may be replaced.
        suffix: what its name must end in, with the dot.

    Raises:
        OutputError: RK912 for a wrong name, a folder that is missing, or a file that exists.
    """
    if suffix and path.suffix != suffix:
        raise OutputError("RK912", f"{path}: the name of the output must end in {suffix}")
    if not path.parent.is_dir():
        raise OutputError("RK912", f"{path.parent}: no such folder")
    if path.is_dir():
        raise OutputError("RK912", f"{path} is a folder")
    if path.exists() and not force:
        raise OutputError("RK912", f"{path} exists; --force (force=True) replaces it")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends well.

    Args:
        path: the file to be; a link there is replaced, not followed.

    Yields:
        The file to write to, in the same folder: a file can only be moved in one step within a file system.

    Raises:
        OutputError: RK912 when the file cannot be written.
    """
    # Nobody can have put a link of this name there, and a file that is there is not opened.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # some writers let only the owner read; the umask says what is meant
        yield temporary
        temporary.chmod(mode)
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError("RK912", f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, force: bool, suffix: str = "") -> None:
    """Write a text file in UTF-8; see `checked_target` and `replacing`.

    Raises:
        OutputError: RK912 when the file cannot be written.
    """
    checked_target(path, force=force, suffix=suffix)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _to_disk(path: Path) -> None:
    """Otherwise a power cut after the rename could leave the new name with nothing in it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
