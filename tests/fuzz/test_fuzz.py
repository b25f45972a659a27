"""2,000 generated models, always the same ones; `make fuzz` looks at many more."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.campaign import CHUNK as LINE
from tests.fuzz.campaign import Campaign
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
    assert seen["gradients"] >= 0.15 * seen["models"], seen
    assert seen["bitwise"] >= 0.1 * seen["models"], seen
    assert min(seen["float32"], seen["bfloat16"], seen["example"]) >= 0.05 * seen["models"], seen


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    line = {"first": 0, "count": LINE, "seen": {"models": 7, "findings": 1}, "findings": ["== seed 3: wrong"]}
    (tmp_path / "done.jsonl").write_text(json.dumps(line) + '\n{"first": 50, "cou')
    campaign = Campaign(tmp_path, 0, LINE + 1)
    assert campaign.summary == f"{LINE} seeds: {{'models': 7, 'findings': 1}}"
    assert list(campaign.run(1)) == []
    assert campaign.summary.startswith(f"{LINE + 1} seeds")
    assert Campaign(tmp_path, 0, LINE + 1).summary == campaign.summary
