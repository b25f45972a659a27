"""Transforms: the pass after the merges. A plugin's mistakes are found, and the model stays as it was."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import reparamkit
from reparamkit import Block, Refusal, Rewritten, Transform
from tests.helpers import gap, randomize

RECIPE = {
    "version": 1,
    "name": "t",
    "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "given/doubled"], "optional": True}],
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Twice(nn.Module):
    """Twice the positive part of what a convolution gives, said in a way that no rule of the core knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.label = "kept"

    def forward(self, x: Tensor) -> Tensor:
        y = torch.threshold(self.bn(self.conv(x)), 0.0, 0.0)
        return y * 2.0


def network() -> nn.Module:
    return randomize(nn.Sequential(Twice(), nn.ReLU(), Twice())).double()


def doubled(factor: float) -> Callable[[Block], Rewritten | Refusal | None]:
    """``2 t(conv(x))`` as ``t((2 conv)(x))``, `t` a threshold at zero: right for a factor of 2, wrong for any other."""

    def run(block: Block) -> Rewritten | Refusal | None:
        last = next((n for n in block.graph.nodes if n.op == "call_function" and 2.0 in n.args), None)
        if last is None:
            return None
        conv = copy.deepcopy(block.get("conv"))
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        conv.weight = nn.Parameter(conv.weight.detach() * factor)
        conv.bias = nn.Parameter(conv.bias.detach() * factor)
        source: Any = last.args[0]
        last.replace_all_uses_with(source)
        return Rewritten({"conv": conv}, block.graph)

    return run


def plugin(run: Callable[[Block], Any]) -> Any:
    @reparamkit.hookimpl
    def reparamkit_rules() -> list[Transform]:
        return [Transform("given/doubled", run)]

    return SimpleNamespace(__name__="given", reparamkit_rules=reparamkit_rules)


def state_of(model: nn.Module) -> dict[str, Any]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_right_one_is_made_proven_and_reported() -> None:
    model = network()
    converted, report = reparamkit.apply(model, RECIPE, plugins=[plugin(doubled(2.0))], return_report=True)
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    assert gap(model(x), converted(x)) < 1e-9
    made = [m for m in report.merged if m.kind == "transform"]
    assert [(m.path, m.rules) for m in made] == [("0", ("given/doubled",)), ("2", ("given/doubled",))]
    assert all(m.error is not None and m.error < 1e-12 for m in made)
    first: Any = converted[0]  # type: ignore[index]
    assert type(first).__name__ == "Twice"
    assert isinstance(first, Twice)
    assert first.label == "kept"
    assert "2.0" not in type(first)._reparamkit_source
    again = pickle.loads(pickle.dumps(converted))
    assert torch.equal(again(x), converted(x))


@pytest.mark.parametrize("inplace", [False, True])
def test_wrong_one_is_caught_and_names_the_plugin(inplace: bool) -> None:
    model = network()
    before, classes = state_of(model), [type(m) for m in model.modules()]
    with pytest.raises(reparamkit.VerificationError, match=r"given/doubled \(plugin given\)") as caught:
        reparamkit.apply(model, RECIPE, plugins=[plugin(doubled(2.001))], inplace=inplace)
    assert caught.value.code == "RK901"
    assert [type(m) for m in model.modules()] == classes
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_one_that_raises_is_named() -> None:
    def run(block: Block) -> None:
        raise KeyError("no")

    with pytest.raises(reparamkit.PluginError, match=r"given/doubled \(plugin given\)") as caught:
        reparamkit.apply(network(), RECIPE, plugins=[plugin(run)])
    assert caught.value.code == "RK804"


def test_it_is_off_until_a_recipe_names_it() -> None:
    for recipe in ("auto", {**RECIPE, "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "given/*"]}]}):
        _, report = reparamkit.apply(network(), recipe, plugins=[plugin(doubled(2.0))], return_report=True)
        assert not [m for m in report.merged if m.kind == "transform"]


def test_plan_says_what_will_look_at_which_blocks_and_runs_nothing() -> None:
    looked: list[str] = []
    given = plugin(lambda block: looked.append(block.path))
    recipe = {**RECIPE, "blocks": [{"match": {"class": "*Twice"}, "rules": ["core/*", "given/doubled"]}]}
    planned = reparamkit.plan(network(), recipe, plugins=[given])
    assert [(t.rule, t.blocks) for t in planned.transforms] == [("given/doubled", ("0", "2"))]
    assert str(planned).endswith("after the merges: given/doubled on 2 modules")
    assert planned.to_dict()["transforms"] == [{"rule": "given/doubled", "blocks": ["0", "2"]}]
    assert not looked
    reparamkit.apply(network(), recipe, plugins=[given])
    assert {"0", "2"} <= set(looked)
    assert not reparamkit.plan(network(), plugins=[given]).transforms


def test_key_map_follows_the_weights() -> None:
    """Every key is accounted for, and a number that is changed moves no other key than the map says."""

    def renamed(block: Block) -> Rewritten | None:
        """The convolution goes, another one with a name of its own comes."""
        call = next((n for n in block.graph.nodes if n.op == "call_module" and n.target == "conv"), None)
        if call is None or block.path != "0":
            return None
        call.target = block.name("other")
        return Rewritten({call.target: copy.deepcopy(block.get("conv"))}, block.graph)

    model, given = network(), [plugin(renamed)]
    deploy, report = reparamkit.apply(model, RECIPE, plugins=given, return_report=True)
    state = deploy.state_dict()
    assert list(report.key_map) == list(model.state_dict())
    assert {k for new in report.key_map.values() for k in new} == set(state)
    both = ("0.other.weight", "0.other.bias")
    for old in ("0.conv.weight", "0.conv.bias", "0.bn.weight", "0.bn.running_var"):
        assert report.key_map[old] == both
    assert report.key_map["2.conv.weight"] == ("2.conv.weight", "2.conv.bias")
    for old, new in report.key_map.items():
        if not new:
            assert old.endswith("num_batches_tracked")
            continue
        changed = copy.deepcopy(model)
        changed.state_dict()[old].mul_(1.5)
        again = reparamkit.apply(changed, RECIPE, plugins=given).state_dict()
        different = {k for k, t in state.items() if not torch.equal(t, again[k])}
        assert different
        assert different <= set(new)


def test_key_map_through_two_transforms() -> None:
    """What one transform makes, the next one exchanges."""

    def names(first: str, second: str) -> Callable[[Block], Rewritten | None]:
        def run(block: Block) -> Rewritten | None:
            call = next((n for n in block.graph.nodes if n.op == "call_module" and n.target == first), None)
            if call is None:
                return None
            call.target = block.name(second)
            return Rewritten({call.target: copy.deepcopy(block.get(first))}, block.graph)

        return run

    @reparamkit.hookimpl
    def reparamkit_rules() -> list[Transform]:
        return [Transform("given/a", names("conv", "middle")), Transform("given/b", names("middle", "last"))]

    given = SimpleNamespace(__name__="given", reparamkit_rules=reparamkit_rules)
    rules = ["core/*", "given/a", "given/b"]
    recipe = {**RECIPE, "blocks": [{"match": {"structure": "any"}, "rules": rules}]}
    deploy, report = reparamkit.apply(network(), recipe, plugins=[given], return_report=True)
    assert report.key_map["2.bn.bias"] == ("2.last.weight", "2.last.bias")
    assert {k for new in report.key_map.values() for k in new} == set(deploy.state_dict())


def test_scope_is_the_block_that_names_it() -> None:
    recipe = {
        **RECIPE,
        "blocks": [
            {"match": {"name": "2"}, "rules": ["core/*", "given/doubled"]},
            {"match": {"structure": "any"}},
        ],
    }
    model = network()
    converted, report = reparamkit.apply(model, recipe, plugins=[plugin(doubled(2.0))], return_report=True)
    assert [m.path for m in report.merged if m.kind == "transform"] == ["2"]
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    assert gap(model(x), converted(x)) < 1e-9


def test_refusals_are_reported_and_strict_makes_them_errors() -> None:
    run = plugin(lambda block: Refusal("RK340", "too wide") if block.path == "2" else None)
    model = network()
    _, report = reparamkit.apply(model, RECIPE, plugins=[run], return_report=True)
    assert [(r.code, r.where) for r in report.refused if r.reason == "too wide"] == [("RK340", "2")]
    before = state_of(model)
    with pytest.raises(reparamkit.RecipeError, match="RK707"):
        reparamkit.apply(model, RECIPE, plugins=[run], strict=True, inplace=True)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_shared_and_observed_modules_are_not_exchanged() -> None:
    model = network()
    shared: Any = model
    shared[2].conv = shared[0].conv
    shared[0].bn = shared[2].bn = nn.Identity().eval()
    _, report = reparamkit.apply(model, RECIPE, plugins=[plugin(doubled(2.0))], return_report=True)
    assert not [m for m in report.merged if m.kind == "transform"]
    assert {r.code for r in report.refused if r.where.endswith("conv")} == {"RK301"}
    model = network()
    hooked: Any = model
    hooked[0].conv.register_forward_hook(lambda *a: None)
    _, report = reparamkit.apply(model, RECIPE, plugins=[plugin(doubled(2.0))], return_report=True)
    assert [m.path for m in report.merged if m.kind == "transform"] == ["2"]


def test_a_block_whose_input_nobody_knows_needs_an_example() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.threshold(self.conv(batch["image"]), 0.0, 0.0) * 2.0

    model = randomize(Keyed()).double()
    given = plugin(doubled(2.0))
    same, report = reparamkit.apply(model, RECIPE, plugins=[given], return_report=True)
    assert [r.code for r in report.refused if r.code == "RK902"] == ["RK902"]
    assert type(same) is Keyed
    x = {"image": torch.randn(2, 3, 4, 5, dtype=torch.float64)}
    converted = reparamkit.apply(model, RECIPE, plugins=[given], example_inputs=(x,))
    assert type(converted) is not Keyed
    assert gap(model(x), converted(x)) < 1e-9


def test_undo_takes_both_passes_back() -> None:
    model = network()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    wanted, before = model(x), [type(m) for m in model.modules()]
    _, report = reparamkit.apply(
        model, RECIPE, plugins=[plugin(doubled(2.0))], inplace=True, keep_original=True, return_report=True
    )
    assert [type(m) for m in model.modules()] != before
    report.undo()
    assert [type(m) for m in model.modules()] == before
    assert torch.equal(model(x), wanted)


def test_hooks_of_the_block_survive_and_see_no_proof() -> None:
    model = network()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *a: calls.append("called"))  # type: ignore[index]
    converted = reparamkit.apply(model, RECIPE, plugins=[plugin(doubled(2.0))])
    assert not calls
    converted(torch.randn(1, 3, 8, 8, dtype=torch.float64))
    assert calls == ["called"]


def test_graph_is_a_copy() -> None:
    seen: list[fx.Graph] = []

    def run(block: Block) -> None:
        seen.append(block.graph)
        for node in reversed(list(block.graph.nodes)):
            block.graph.erase_node(node)

    model = network()
    converted = reparamkit.apply(model, RECIPE, plugins=[plugin(run)])
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert seen
    assert gap(model(x), converted(x)) < 1e-9
