"""Codes that a report does not show, and those of models that are named on the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reparamkit.lift.lifter import Lifter
from reparamkit.loading import default_registry
from reparamkit.merge import Algebra
from reparamkit.model_source import load_model
from reparamkit.survey import survey
from tests.hazards.models import bn, same
from tests.hazards.test_c_attributes import Doubled
from tests.hazards.told import raises
from tests.helpers import Fn, convert, counts, places, randomize

Run = Callable[[Any, Tensor], Any]


def reasons(run: Run) -> dict[str, str]:
    """Why values stay what they are: place -> code. Most are no news for a user, and in no report."""
    registry = default_registry()
    found = survey(randomize(Fn(run, a=same(), b=same(1), bn=bn())), registry)
    flows = Lifter(found, registry, Algebra(registry.merge, lambda rule: True)).flows()
    return {v.where: v.refusal.code for flow in flows for v in flow.values if v.refusal is not None}


def test_rk318_a_sum_of_two_values_is_not_one_layer() -> None:
    run: Run = lambda m, x: m.a(x.relu()) + m.b(x.tanh())  # noqa: E731
    assert reasons(run)["add"] == "RK318"
    _, report = convert(Fn(run, a=same(), b=same(1)))
    assert not report.merged
    assert not report.refused


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.a(x) * m.b(x),
        lambda m, x: torch.cat([x, m.a(x)], 2),
        lambda m, x: m.a(x) * x.shape[0],
    ],
)
def test_rk331_what_is_not_affine(run: Run) -> None:
    assert "RK331" in reasons(run).values()


def test_rk330_a_call_of_its_own_is_a_border() -> None:
    converted, report = convert(Fn(lambda m, x: m.bn(m.f(x)) + x, f=Doubled(), bn=bn()))
    assert places(report, "RK330") == ["f"]
    assert counts(converted)[1] == 1


@pytest.mark.parametrize("source", ["timm:no_such_model", "nowhere", "no.such.module:make", "hf:missing.json"])
def test_rk920_models_that_cannot_be_made(source: str) -> None:
    with raises("RK920", source):
        load_model(source)


def test_rk921_what_to_install() -> None:
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "import reparamkit; from torch import nn\n"
        "try: reparamkit.save(nn.Linear(2, 2), 'x.safetensors')\n"
        "except reparamkit.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "RK921" in done.stdout
    assert "pip install 'reparamkit[safetensors]'" in done.stdout
