"""Recipes of any kind, carried out: a clear error and an untouched model, or one that computes the same."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reparamkit
from reparamkit.errors import CODES, ReparamError
from tests.fuzz.recipes import drawn, usable
from tests.helpers import assert_same, assert_untouched, randomize, rng_state, snapshot
from tests.test_recipe_fuzz import WORDS

RECIPES = drawn()
QUICK = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.wide(x) + self.norm(self.narrow(x)))


MODEL = randomize(nn.Sequential(Block(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))).double()


def carried_out(call: Any, spec: Any) -> str:
    """What comes of a recipe: the code of an error, and an untouched model; or nothing, and one that is the same."""
    model, error = copy.deepcopy(MODEL), None
    before = snapshot(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = call(model, spec)
    except ReparamError as raised:
        error = raised
    assert_untouched(model, {**before, "rng": rng_state()})  # initial numbers of branches are drawn
    if error is None:
        assert_same(model, made.eval())
        return ""
    assert len(str(error)) < 100_000
    return error.code


@pytest.mark.parametrize("call", [reparamkit.apply, reparamkit.expand])
@QUICK
@given(RECIPES)
def test_a_recipe_that_fits_the_schema(call: Any, spec: Any) -> None:
    assert carried_out(call, spec) in ("", *CODES)


def test_a_recipe_whose_keys_go_together_is_mostly_carried_out() -> None:
    codes = []

    @settings(QUICK, derandomize=True, database=None)
    @given(usable())
    def look(spec: Any) -> None:
        codes.append(carried_out(reparamkit.apply, spec))

    look()
    assert codes.count("") > len(codes) / 2


@QUICK
@given(RECIPES, st.data())
def test_a_recipe_that_fits_the_schema_but_for_one_value(spec: Any, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(spec)))
    wrong = {**spec, key: data.draw(st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=2))}
    assert carried_out(reparamkit.apply, wrong) in ("", *CODES)


@QUICK
@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=30).map("".join))
def test_any_text_leaves_the_model_alone(text: str) -> None:
    assert carried_out(reparamkit.apply, text + "\n") in CODES


@QUICK
@given(st.binary())
def test_any_bytes_leave_the_model_alone(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "recipe.yaml"
    file.write_bytes(content)
    assert carried_out(reparamkit.apply, file) in CODES
