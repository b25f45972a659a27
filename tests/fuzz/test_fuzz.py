"""2,000 generated models, always the same ones; `make fuzz` looks at many more."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.oracle import Finding, Unfit, check
from tests.fuzz.shrink import shrunk
from tests.fuzz.writer import program

SEEDS, CHUNK = 2600, 100  # about a fifth of the programs do not run


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_generated_models_are_converted_exactly_or_left_alone(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        made = program(seed)
        try:
            check(made, seen)
        except Unfit:
            continue
        except Finding as error:
            pytest.fail(f"seed {seed}: {error}\n{shrunk(made, error.kind).text}")
    assert seen["models"] >= 0.7 * CHUNK, seen
    assert seen["merged"] >= 0.3 * seen["models"], seen
    assert seen["rewritten"] >= 0.05 * seen["models"], seen
