"""`expand`: random grammars beside random layers keep the function, train, and collapse into one layer again."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import reparamkit
from tests.helpers import assert_untouched, gap, inputs, snapshot

CONV: tuple[Any, ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM: dict[str, Any] = {"bn": {}}


def recipe(*branches: Any, **section: Any) -> dict[str, Any]:
    """A recipe with one `expand` section for every convolution."""
    match = section.pop("match", {"type": "conv"})
    return {"version": 1, "name": "x", "expand": [{"match": match, "branches": list(branches), **section}]}


def moved(model: nn.Module, x: Tensor) -> nn.Module:
    """After one step of training: new weights, new statistics in every batch norm; in eval mode."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()(x).pow(2).mean().backward()
    optimizer.step()
    return model.eval()


def apart(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """How much the outputs of both differ."""
    with torch.no_grad():
        return gap(model(x), other(x))


def leaves(model: nn.Module) -> list[type]:
    return [type(m) for m in model.modules() if not list(m.children())]


@st.composite
def layers(draw: Any) -> nn.Module:
    """Any plain layer."""
    nd = draw(st.sampled_from((0, 1, 2, 2, 2, 3)))
    groups = draw(st.sampled_from((1, 1, 2, 4)))
    inside, outside = draw(st.sampled_from((4, 8))), draw(st.sampled_from((4, 8)))
    bias = draw(st.booleans())
    if nd == 0:
        return nn.Linear(inside, outside, bias=bias)
    kernel = draw(st.sampled_from(((1,) * nd, (3,) * nd, (3,) * nd, (2,) * nd, (5,) * nd, (3, 1, 2)[:nd])))
    dilation = draw(st.sampled_from((1, 1, 2)))
    return CONV[nd](
        groups if groups == 4 and draw(st.booleans()) else inside,
        outside,
        kernel,
        stride=draw(st.sampled_from((1, 1, 2, (2, 1, 1)[:nd]))),
        padding=draw(st.sampled_from((0, 1, 1, 2))),
        dilation=dilation,
        groups=groups,
        bias=bias,
        padding_mode=draw(st.sampled_from(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))),
    )


WIDTHS = ("in", "out", "2*in", 6, "0.5*out")


@st.composite
def steps(draw: Any, nd: int, depth: int = 0) -> list[Any]:
    """A branch: any operations in any order, some of which make no sense beside some layers."""
    plain = ["identity", "scale", {"scale": {"value": -0.7, "train": False, "per": "layer"}}, {"dropout": {"p": 0.3}}]
    if nd == 0:
        mixing = [{"linear": {"channels": draw(st.sampled_from(WIDTHS))}}, "linear", {"linear": {"bias": True}}]
    else:
        kernel = draw(st.sampled_from((1, 1, 2, 3, "k")))
        options = {"kernel_size": kernel, "bias": draw(st.sampled_from((True, False)))}
        mixing = ["conv", {"conv": options}, {"conv": {**options, "channels": draw(st.sampled_from(WIDTHS))}}]
        mixing += [{"conv": {"kernel_size": 1, "identity": True, "channels": "in"}}, {"conv": {"groups": "in"}}]
        plain += ["bn", "bn", "bn", {"avgpool": {"kernel_size": draw(st.sampled_from((2, 3, "k")))}}, "avgpool"]
        plain += ["sobel_x", "laplacian"] if nd == 2 else []
    if depth < 2:
        nested = st.lists(steps(nd, depth + 1), min_size=1, max_size=3)
        mixing.append({"sum": draw(nested)})
    return draw(st.lists(st.sampled_from([*mixing, *mixing, *plain]), min_size=1, max_size=4))


def main(nd: int) -> list[Any]:
    """The branch that is there in every published block."""
    return ["linear"] if nd == 0 else ["conv", "bn"]


def shape_for(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (5, layer.in_features)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return (3, layer.in_channels, *(s + more for s, more in zip(spans, (5, 4, 3), strict=False)))


def expanded(model: nn.Module, spec: Any, **options: Any) -> tuple[nn.Module, Any]:
    """`expand` with the recipe's branches that can never collapse taken out."""
    while True:
        try:
            return reparamkit.expand(model, spec, return_report=True, **options)
        except reparamkit.RecipeError as error:
            if error.code != "RK710" or "branches[" not in str(error):
                raise
            wrong = int(str(error).split("branches[")[1].split("]")[0])
            spec["expand"][0]["branches"].pop(wrong)


@settings(max_examples=300)
@given(st.data())
def test_any_grammar_keeps_the_function_trains_and_collapses(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    layer = data.draw(layers())
    nd = len(getattr(layer, "kernel_size", ()))
    branches = [main(nd), *data.draw(st.lists(steps(nd), min_size=1, max_size=4))]
    spec = recipe(*branches, match={"type": f"conv{nd}d" if nd else "linear"})
    model = nn.Sequential(layer, nn.Tanh()).double().eval()
    before = snapshot(model)
    before.pop("rng")  # new weights are drawn from it
    train, report = expanded(model, spec)
    before["rng"] = torch.get_rng_state()
    assert_untouched(model, before)
    if not report.layers:
        assert {r.code for r in report.refused} == {"RK341"}
        return
    x = inputs(shape_for(layer))
    assert apart(model, train, x) <= 1e-12

    back = reparamkit.apply(train, spec)
    assert leaves(back) == leaves(model)
    assert gap(model[0].weight.data, back[0].weight.data) <= 1e-12
    if layer.bias is not None:
        assert gap(layer.bias.data, back[0].bias.data) <= 1e-12

    moved(train, x)
    assert apart(model, train, x) > 1e-6
    deploy = reparamkit.apply(train, spec)
    assert leaves(deploy) == leaves(model)
    assert {n for n, _ in deploy.named_modules()} == {n for n, _ in model.named_modules()}
    for size in (x, inputs((1, *shape_for(layer)[1:]), 2)):
        assert apart(train, deploy, size) <= 1e-9
