"""Expand sections are refused when they are read, with the reason and the place."""

from __future__ import annotations

from typing import Any

import pytest

from reparamkit.errors import RecipeError, Refusal
from reparamkit.expand.layer import Layer
from reparamkit.expand.ops import CORE
from reparamkit.expand.place import place, place_all
from reparamkit.expand.read import branches_of
from reparamkit.recipe import Expand, LayerMatch, load_recipe

OPS = {op.name: op for op in CORE}
HEAD = "version: 1\nname: x\nexpand:\n  - match: {type: conv2d, kernel_size: 3}\n    branches:\n      - [conv, bn]\n"


def section(*branches: Any, **match: Any) -> Expand:
    return Expand(match=LayerMatch(**match), branches=branches)


def legal(layer: Layer, *branches: Any) -> tuple[list[str], list[str]]:
    """Names of the branches that have a place beside `layer`, and codes of the others."""
    found = place_all(branches_of(section(*branches), OPS), layer)
    return [b.name for b in found.branches], [r.code for r in found.left_out]


WRONG: dict[str, tuple[str, str, str]] = {
    "unknown operation": (
        "      - [convv, bn]\n",
        "RK709",
        "7:10: there is no operation 'convv' (did you mean 'conv'?)",
    ),
    "not affine": ("      - [conv, relu]\n", "RK710", "7:16: 'relu' is not affine in eval mode"),
    "not affine, with options": ("      - [maxpool: {k: 1}]\n", "RK710", "7:10: 'maxpool' is not affine"),
    "unknown option": (
        "      - [conv: {kernel: 1}]\n",
        "RK702",
        "7:17: conv has no option 'kernel' (did you mean 'kernel_size'?)",
    ),
    "option of one without": (
        "      - [identity: {p: 1}]\n",
        "RK702",
        "7:21: identity has no option 'p' (it has none)",
    ),
    "wrong value": ("      - [dropout: {p: 2}]\n", "RK704", "7:23: dropout.p: expected less than 1, got '2'"),
    "wrong channels": ("      - [conv: {channels: 2in}]\n", "RK704", "conv.channels"),
    "no list": ("      - conv\n", "RK704", "7:9: expected a list of operations, got 'conv'"),
    "empty": ("      - []\n", "RK704", "7:9: expected a list of operations"),
    "a number": ("      - [3]\n", "RK704", "7:10: expected an operation like 'bn'"),
    "unknown key": ("      - {steps: [bn], nam: a}\n", "RK702", "7:23: unknown key 'nam' (did you mean 'name'?)"),
    "no steps": ("      - {name: a}\n", "RK704", "7:9: missing key 'steps'"),
    "name of a method": ("      - {steps: [bn], name: train}\n", "RK704", "7:29: expected a name"),
    "name with a dot": ("      - {steps: [bn], name: a.b}\n", "RK704", "7:29: expected a name"),
    "too many": ("      - x99: [bn]\n", "RK704", "7:9: expected 1 to 64 repetitions, got 99"),
    "train": ("      - {steps: [bn], train: 1}\n", "RK704", "7:30: expected true or false"),
    "larger than the layer": (
        "      - [conv: {kernel_size: 5}]\n",
        "RK710",
        "7:9: the branch collapses beside no layer of this section (RK317 conv spans 5x5 positions, the layer's kernel "
        "3x3)",
    ),
    "two kernels, together too large": ("      - [conv, bn, conv]\n", "RK710", "7:9: the branch collapses beside no"),
    "padding behind a kernel": (
        "      - [conv: {kernel_size: 2}, pad, conv: {kernel_size: 2}]\n",
        "RK710",
        "RK316 padding behind conv: an outer kernel would need positions the inner one never computed",
    ),
    "padding twice": ("      - [pad, conv: {kernel_size: 1}, pad, conv]\n", "RK710", "RK316 padding twice"),
    "linear beside a convolution": ("      - [linear]\n", "RK710", "RK310 linear has no place"),
    "nested": ("      - [sum: [[conv], [convv]]]\n", "RK709", "7:25: there is no operation 'convv'"),
    "nested, too large": ("      - [sum: [[conv: {kernel_size: 7}]]]\n", "RK710", "RK317"),
}


@pytest.mark.parametrize(("text", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_refused_when_read(text: str, code: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(HEAD + text)
    assert caught.value.code == code
    assert message in str(caught.value)


def test_channels_are_for_the_layer_to_say() -> None:
    recipe = load_recipe(HEAD + "      - [conv: {channels: 2*in}]\n      - [conv: {channels: 12, groups: 2}]\n")
    wider = Layer(6, 12, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    assert legal(wider, *recipe.expand[0].branches) == (["conv3x3", "conv3x3_1", "conv3x3_2"], [])


def test_batch_norm_beside_a_linear_layer() -> None:
    text = HEAD.replace("type: conv2d, kernel_size: 3", "type: linear").replace("[conv, bn]", "[linear, bn]")
    with pytest.raises(RecipeError, match=r"RK710.*bn has no place beside a layer of 0 spatial axes"):
        load_recipe(text)


def test_keys_of_a_section() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'kernel' \(did you mean 'kernel_size'\?\)"):
        load_recipe(HEAD.replace("kernel_size: 3", "kernel: 3"))
    with pytest.raises(RecipeError, match="expected 'keep' or 'scratch', got text 'none'"):
        load_recipe(HEAD + "    init: none\n")


def test_match() -> None:
    layer = Layer(8, 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 8)
    assert LayerMatch(type="conv2d", kernel_size=3, groups="depthwise").fits("a.b", layer)
    assert LayerMatch(kernel_size=(3, 3), stride=1, dilation=1, groups=8, name="a.*").fits("a.b", layer)
    for wrong in ({"type": "conv1d"}, {"type": "linear"}, {"kernel_size": (3, 1)}, {"groups": 1}, {"name": "b"}):
        assert not LayerMatch(**wrong).fits("a.b", layer)
    dense = Layer(1, 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert not LayerMatch(groups="depthwise").fits("", dense)


LAYER = Layer(8, 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
POINT = {"conv": {"kernel_size": 1}}


def test_illegal_branches_are_left_out() -> None:
    strided = Layer(8, 8, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    wider = Layer(8, 12, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    grouped = Layer(8, 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    branches: tuple[Any, ...] = (["conv", "bn"], [POINT, "bn"], ["bn"], ["identity"], [{"conv": {"groups": 1}}])
    assert legal(LAYER, *branches) == (["conv3x3", "conv1x1", "bn", "identity", "conv3x3_1"], [])
    assert legal(strided, *branches) == (["conv3x3", "conv1x1", "conv3x3_1"], ["RK313", "RK313"])
    assert legal(wider, *branches) == (["conv3x3", "conv1x1", "conv3x3_1"], ["RK311", "RK311"])
    assert legal(grouped, *branches) == (["conv3x3", "conv1x1", "bn", "identity"], ["RK315"])


def placed(layer: Layer, *steps: Any) -> Any:
    [branch] = branches_of(section(list(steps)), OPS)
    found = place(branch, layer)
    assert not isinstance(found, Refusal), found
    return found


def test_where_the_padding_goes() -> None:
    """On the first operation with taps; behind a batch norm with its value of zero; at the front of biased layers."""
    assert placed(LAYER, "conv", "bn").border is None
    assert placed(LAYER, POINT, "conv").steps[1].place.padding == (1, 1)
    framed = placed(LAYER, POINT, "bn", "conv").border
    assert (framed.at, framed.framed, framed.pads) == (2, True, ((1, 1), (1, 1)))
    biased = placed(LAYER, {"conv": {"kernel_size": 1, "bias": True}}, "conv")
    assert biased.border is None
    assert [s.place.padding for s in biased.steps] == [(1, 1), (0, 0)]
    marked = placed(LAYER, POINT, "pad", "scale", "conv").border
    assert (marked.at, marked.framed) == (1, False)


def test_crops_stands_off_centre_and_dilation() -> None:
    bare = Layer(8, 8, (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1))
    assert placed(bare, POINT).border.pads == ((-1, -1), (-1, -1))
    assert placed(LAYER, {"conv": {"kernel_size": [1, "k"]}}).steps[0].place.padding == (0, 1)
    even = placed(LAYER, {"conv": {"kernel_size": 2}}).border
    assert even.pads == ((1, 0), (1, 0))
    dilated = Layer(8, 8, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2))
    assert placed(dilated, "conv").steps[0].place.dilation == (2, 2)
    assert legal(dilated, ["avgpool"]) == ([], ["RK314"])
    large = Layer(8, 8, (13, 13), (1, 1), ((6, 6), (6, 6)), (1, 1), 8)
    assert placed(large, {"conv": {"kernel_size": 5, "dilation": 3}}).steps[0].place.padding == (6, 6)


def test_the_stride_is_that_of_the_last_kernel() -> None:
    strided = Layer(8, 8, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    strides = [
        [s.place.stride for s in placed(strided, *steps).steps] for steps in ((POINT, "conv", POINT), (POINT, "bn"))
    ]
    assert strides == [[(1, 1), (2, 2), (1, 1)], [(2, 2), (1, 1)]]
