"""Code that never ends: a command with `--timeout` does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hazards.row import hazard

pytest.importorskip("typer")
ROOT = Path(__file__).parents[2]
MODELS = '''
import time
from torch import nn

def sleeps():
    time.sleep(600)

def goes_on():
    """Takes an interrupt for nothing."""
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            pass

def quick():
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
'''


def run(folder: Path, *args: str) -> tuple[subprocess.CompletedProcess[str], float]:
    (folder / "endless.py").write_text(MODELS)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    start = time.monotonic()
    command = [sys.executable, "-m", "reparamkit", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False, timeout=300)
    return done, time.monotonic() - start


@hazard("S19", "a plugin or a model takes for ever", "a command ends after `--timeout` seconds with exit code 5")
@pytest.mark.parametrize("model", ["sleeps", "goes_on"])
def test_s19_a_command_ends_in_time(model: str, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"old")
    args = ["--timeout", "2", "apply", "--model", f"endless:{model}", "--output", str(output), "--force"]
    done, took = run(tmp_path, *args)
    assert done.returncode == 5, done.stderr
    assert "took longer than --timeout 2 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert took < 200
    assert output.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} <= {"endless.py", "out.safetensors", "__pycache__"}


def test_s19_a_command_that_is_in_time_does_not_notice(tmp_path: Path) -> None:
    done, _ = run(tmp_path, "--timeout", "250", "plan", "--model", "endless:quick")
    assert done.returncode == 0, done.stderr
    assert "1 merges" in done.stdout


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_s19_a_timeout_is_a_number_of_seconds(seconds: str, tmp_path: Path) -> None:
    done, _ = run(tmp_path, "--timeout", seconds, "plan", "--model", "endless:quick")
    assert done.returncode == 2
    assert "--timeout" in done.stderr
