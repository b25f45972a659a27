"""Save over an existing checkpoint, again and again, each time killed a line further on. Run by test_a_files.py.

Prints how many lines were tried; fails when a file is neither the old nor the new one, whole.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file

import reparamkit
from tests.hazards.models import Block, seq
from tests.helpers import randomize

FILES = ("deploy.safetensors", "recipe.yaml")
WRITING = tuple(str(Path(reparamkit.__file__).parent / name) for name in ("output.py", "checkpoint"))


def killed_at(line: int) -> Any:
    """A trace function that ends the process, as kill -9 does, at the n-th line that writes."""
    count = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(WRITING):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def survived(line: int, write: Any) -> bool:
    """Whether a child that is killed at this line came to its end before."""
    child = os.fork()
    if child == 0:
        sys.settrace(killed_at(line))
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def content(file: Path) -> Any:
    """What a file holds; safetensors writes its metadata in any order."""
    if file.suffix == ".yaml":
        return file.read_text(encoding="utf-8")
    return {key: tensor.tolist() for key, tensor in load_file(file).items()}


def main(folder: Path) -> None:
    """Try every line."""
    old, new = (reparamkit.apply(randomize(seq(Block()), seed), return_report=True) for seed in (1, 2))
    places = [folder / name for name in ("old", "new", "here")]
    for place, (model, report) in zip(places, (old, new, old), strict=True):
        place.mkdir()
        reparamkit.save(model, place / FILES[0], report)
    before, after, here = places
    line, done = 0, False
    while not done:
        line += 1
        done = survived(line, lambda: reparamkit.save(new[0], here / FILES[0], new[1], force=True))
        for name in FILES:
            found = content(here / name)
            assert found in (content(before / name), content(after / name)), (line, name)
            assert not done or found == content(after / name)
            (here / name).write_bytes((before / name).read_bytes())
    print(line)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
