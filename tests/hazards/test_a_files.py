"""Checkpoints under kill -9: the old file or the new one, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import reparamkit
from tests.hazards.models import Block, seq
from tests.hazards.told import raises
from tests.helpers import randomize

pytest.importorskip("safetensors")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a14_a_checkpoint_survives_kill_9_at_any_line(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.hazards.killed", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_a14_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    file = tmp_path / "deploy.safetensors"
    first, second = (reparamkit.apply(randomize(seq(Block()), seed)) for seed in (1, 2))
    reparamkit.save(first, file)
    before = file.read_bytes()

    def fails(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with raises("RK912", file.name) if error is OSError else pytest.raises(error):
        reparamkit.save(second, file, force=True)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a14_a_file_is_exchanged_never_written_to(tmp_path: Path) -> None:
    """Who has the old file open, or another name for it, goes on having it: at no moment is it half of each."""
    file, other = tmp_path / "deploy.safetensors", tmp_path / "other"
    first, second = (reparamkit.apply(randomize(seq(Block()), seed)) for seed in (1, 2))
    reparamkit.save(first, file)
    before = file.read_bytes()
    os.link(file, other)
    reparamkit.save(second, file, force=True)
    assert other.read_bytes() == before
    assert file.read_bytes() != before
