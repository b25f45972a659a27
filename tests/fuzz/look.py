"""One generated model, looked at. A module of its own, so that the processes of a pool find it."""

from __future__ import annotations

from collections import Counter

import torch

from tests.fuzz.oracle import Finding, Unfit, check
from tests.fuzz.shrink import finding, shrunk
from tests.fuzz.writer import program


def look(seed: int) -> tuple[Counter[str], str]:
    """What happened with the program of a seed, and a report when something went wrong."""
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    made = program(seed)
    try:
        check(made, seen)
    except Unfit:
        seen["unfit"] += 1
    except Finding as error:
        seen["findings"] += 1
        small = shrunk(made, error.kind)
        return seen, f"== seed {seed}: {finding(small) or error}\n{small.text}"
    return seen, ""
