"""Models that draw are run with the same numbers each time; the generators of the process stand where they stood."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.chance import settled
from tests.helpers import snapshot

Draw = Callable[[], Any]


def _caught() -> Any:
    try:
        return torch.rand(2)
    except BaseException:
        return None


def _seeds(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.rand(2)


DRAWS: dict[str, Draw] = {
    "torch.rand": lambda: torch.rand(2),
    "in place": lambda: torch.zeros(2).normal_(),
    "dropout": lambda: F.dropout(torch.ones(9), 0.5, True),
    "a permutation": lambda: torch.randperm(9),
    "an attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 2, 4, 4)] * 3, dropout_p=0.5),
    "Python": random.random,
    "numpy": lambda: float(np.random.rand()),
    "caught": _caught,
    "another seed": lambda: _seeds(123),
    "the seed that it had": lambda: _seeds(7),
}


@pytest.mark.parametrize("how", DRAWS)
def test_a_model_that_draws_gives_the_same_again_and_nothing_moves(how: str) -> None:
    torch.manual_seed(7)
    torch.rand(3)
    model = nn.Identity()
    before = snapshot(model)
    one, other = (settled(lambda: DRAWS[how](), model) for _ in range(2))
    assert type(one) is not type(None)
    if how not in ("Python", "numpy"):
        assert torch.equal(one, other)
    after = snapshot(model)
    assert [key for key in before if before[key] != after[key]] == []


def test_a_model_that_draws_nothing_is_run_once() -> None:
    calls: list[Tensor] = []

    def run() -> int:
        calls.append(torch.ones(2) * 2)
        return len(calls)

    assert settled(run, nn.Identity()) == 1


def test_what_it_raises_is_raised() -> None:
    def run() -> None:
        torch.rand(2)
        raise ZeroDivisionError

    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        settled(run, nn.Identity())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_run_while_it_is_watched_is_run_unwatched() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    def run() -> str:
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("a dispatch mode is not supported")
        return "run"

    assert settled(run, nn.Identity()) == "run"
