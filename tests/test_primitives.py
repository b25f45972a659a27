"""Every primitive of the algebra has a test in which it merges and a twin in which it must not; some are here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.helpers import Fn, branches, convert, counts

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
table: Any = import_module("primitive_table")  # docs is no package
C = 4
IMAGES = ((1, C, 9, 7), (2, C, 5, 11))


def heads(m: Any, first: Tensor, second: Tensor) -> Tensor:
    return (m.a(first) + m.b(second)) / 2  # type: ignore[no-any-return]


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


MERGED: dict[str, Any] = {
    "1x1 beside a dilated kernel": lambda: branches(nn.Conv2d(C, C, 3, padding=2, dilation=2), nn.Conv2d(C, C, 1)),
    "even dilated kernel": lambda: branches(
        nn.Conv2d(C, C, 3, padding=1, groups=C), nn.Conv2d(C, C, 2, padding=1, dilation=2, groups=C)
    ),
    "grouped 1x1, grouped 3x3": lambda: nn.Sequential(
        nn.Conv2d(C, C, 1, bias=False, groups=2), nn.Conv2d(C, C, 3, padding=1, groups=2)
    ),
    "bars across each other": lambda: nn.Sequential(
        nn.Conv2d(C, C, (1, 3), padding=(0, 1), bias=False, groups=C),
        nn.Conv2d(C, 16, (3, 1), padding=(1, 0), groups=C),
        nn.Conv2d(16, 2, 1),
    ),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(C, C, 3)), nn.BatchNorm2d(C)),
    "averaged heads": lambda: Fn(
        lambda m, x: (lambda y: heads(m, y, y))(mean(x)), a=nn.Linear(C, C), b=nn.Linear(C, C)
    ),
}  # fmt: skip
STAYS: dict[str, Any] = {
    "dilated kernel of another size for even images": (
        lambda: branches(nn.Conv2d(C, C, 2, stride=2, dilation=2), nn.Conv2d(C, C, 2, stride=2)), "RK317",
    ),
    "averaged heads of two inputs": (
        lambda: Fn(lambda m, x: heads(m, mean(x), mean(x.relu())), a=nn.Linear(C, C), b=nn.Linear(C, C)), "",
    ),
    "bars with a bias in between": (
        lambda: nn.Sequential(nn.Conv2d(C, 1, (1, 3), padding=(0, 1)), nn.Conv2d(1, 2, (3, 1), padding=(1, 0))),
        "RK316",
    ),
    "weight norm whose norm sees batches": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(C, C, 3)), nn.BatchNorm2d(C, track_running_stats=False)
        ), "RK201",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MERGED)
def test_one_convolution_is_left(what: str) -> None:
    deploy, report = convert(MERGED[what](), *IMAGES, policy="always")
    assert counts(deploy) == (1, 0), report


@pytest.mark.parametrize("what", STAYS)
def test_the_twin_stays(what: str) -> None:
    make, code = STAYS[what]
    model = make()
    before = counts(model)
    deploy, report = convert(model, *IMAGES, policy="always")
    assert counts(deploy) == before
    assert not code or code in {refusal.code for refusal in report.refused}


def test_every_primitive_has_tests_of_both_kinds() -> None:
    rows = table.primitives()
    assert [row["id"] for row in rows] == [f"P{number}" for number in range(1, 31)]
    assert all(row["fuses"] and row["refused"] for row in rows)


def test_every_test_that_is_named_exists() -> None:
    for package in ("einops", "reparamkit_repmlp", "reparamkit_rmnet"):  # some are tests of these
        pytest.importorskip(package)
    named = sorted(set(table.named_tests()))
    files = sorted({name.partition("::")[0] for name in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-n", "0", *files],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {line.strip() for line in done.stdout.splitlines()}
    found |= {re.sub(r"\[.*", "", name) for name in found}
    assert [name for name in named if name not in found] == []
