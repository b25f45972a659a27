"""`expand`: random grammars beside random layers keep the function, train, and collapse into one layer again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import reparamkit
from reparamkit import BranchOp, RecipeError
from reparamkit.expand import Expanded, parameter_groups
from reparamkit.expand.ops.scale import Scale
from reparamkit.recipe import load_recipe, shipped_recipes
from tests.helpers import assert_untouched, gap, inputs, randomize, snapshot

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
    del before["rng"]  # new weights are drawn from it
    train, report = expanded(model, spec)
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


@settings(max_examples=200)
@given(st.data())
def test_any_grammar_from_scratch_trains_and_collapses(data: st.DataObject) -> None:
    """Whatever numbers it has: the papers' own, after a step of training, and random ones in every norm."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    layer = data.draw(layers())
    nd = len(getattr(layer, "kernel_size", ()))
    branches = data.draw(st.lists(steps(nd), min_size=1, max_size=4))
    spec = recipe(*branches, main(nd), init="scratch", match={"type": f"conv{nd}d" if nd else "linear"})
    model = nn.Sequential(layer, nn.Tanh()).double().eval()
    train, report = expanded(model, spec)
    if not report.layers:
        assert {r.code for r in report.refused} == {"RK341"}
        return
    x = inputs(shape_for(layer))
    for prepare in (lambda m: m, lambda m: moved(m, x), randomize):
        deploy = reparamkit.apply(prepare(train), spec)
        assert leaves(deploy) == leaves(model)
        assert all(getattr(deploy[0], n) == getattr(layer, n) for n in ("stride", "groups") if nd)
        for size in (x, inputs((1, *shape_for(layer)[1:]), 2)):
            assert apart(train, deploy, size) <= 1e-9


REPVGG = (["conv", "bn"], [{"conv": {"kernel_size": 1}}, "bn"], ["bn"])


class Small(nn.Module):
    """Convolutions with and without bias, one of them followed by a batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.stem(x)))
        return self.head(torch.relu(self.down(x)).mean((2, 3)))


IMAGES = (2, 3, 9, 8)


def small() -> nn.Module:
    return randomize(Small()).double()


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if load_recipe(n).expand])
def test_each_shipped_recipe_there_and_back(name: str) -> None:
    """Same class, same names, same numbers: `apply` with the same recipe is the inverse."""
    model: Any = nn.Sequential(
        nn.Conv2d(4, 8, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    )
    model += nn.Sequential(
        nn.Conv2d(8, 8, 7, 1, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Linear(7, 3)
    )
    model = randomize(model).double()
    before = snapshot(model)
    del before["rng"]
    train, report = reparamkit.expand(model, name, return_report=True)
    assert_untouched(model, before)
    assert report.layers
    assert not report.refused
    x = inputs((2, 4, 8, 7))
    assert apart(model, train, x) <= 1e-12
    back = reparamkit.apply(train, name)
    if any(block.match.structure for block in load_recipe(name).blocks):
        model = reparamkit.apply(model, name)  # such a recipe does more than take the branches away
    assert str(back) == str(model)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert gap(tensor, back.state_dict()[key]) <= 1e-12
    moved(train, x)
    assert apart(train, reparamkit.apply(train, name), x) <= 1e-9
    assert apart(train, reparamkit.apply(train), x) <= 1e-9


def test_report_and_names() -> None:
    train, report = reparamkit.expand(small(), recipe(*REPVGG), return_report=True)
    assert [(one.path, one.branches) for one in report.layers] == [
        ("stem", ("conv3x3", "conv1x1")),
        ("body.0", ("conv3x3", "conv1x1", "bn")),
        ("down", ("conv3x3", "conv1x1")),
    ]
    assert [r.code for r in report.layers[0].left_out] == ["RK311"]
    assert {r.code for r in report.layers[2].left_out} & {"RK311", "RK313"}
    assert report.layers[1].after == 8 * 8 * 9 + 8 * 8 + 3 * 16
    assert "3 layers expanded" in str(report)
    assert report.to_dict()["recipe"] == "x"
    assert "body.0.conv1x1.bn.running_var" in train.state_dict()
    assert type(train) is Small


def test_names_from_the_recipe_and_repeats() -> None:
    spec = recipe({"x3": ["conv", "bn"]}, {"steps": ["bn"], "name": "skip"}, {"steps": ["conv", "scale"], "repeat": 2})
    train: Any = reparamkit.expand(nn.Sequential(nn.Conv2d(4, 4, 3)), spec)
    names = ["conv3x3", "conv3x3_1", "conv3x3_2", "skip", "conv3x3_3", "conv3x3_4"]
    assert [n for n, _ in train[0].named_children()] == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_mode_and_memory_format(dtype: torch.dtype) -> None:
    model = Small().to(dtype).to(memory_format=torch.channels_last)
    model.body.eval()
    train: Any = reparamkit.expand(model, "repvgg")
    assert {t.dtype for t in train.state_dict().values() if t.is_floating_point()} == {dtype}
    assert train.stem.training
    assert not train.body[0].conv1x1[1].training
    assert train.down.conv3x3.conv.weight.is_contiguous(memory_format=torch.channels_last)
    back = reparamkit.apply(train.eval(), "repvgg")
    assert gap(model.stem.weight.data.float(), back.stem.weight.data.float()) <= 20 * torch.finfo(dtype).eps
    assert list(back.state_dict()) == list(model.state_dict())


def test_in_place() -> None:
    model = small()
    wanted = model(inputs(IMAGES)).detach()
    assert reparamkit.expand(model, "repvgg", inplace=True) is model
    assert isinstance(model.stem, Expanded)
    assert gap(wanted, model(inputs(IMAGES)).detach()) <= 1e-12


def test_a_model_that_is_the_layer_itself() -> None:
    layer = randomize(nn.Conv2d(4, 4, 3, padding=1)).double()
    block = reparamkit.expand(layer, "repvgg")
    assert isinstance(block, Expanded)
    assert (block.kernel_size, block.padding, block.in_channels) == ((3, 3), (1, 1), 4)
    x = inputs((2, 4, 6, 6))
    assert apart(layer, block, x) <= 1e-12
    assert leaves(reparamkit.apply(block)) == [nn.Conv2d]


def test_expanding_twice_says_so() -> None:
    train = reparamkit.expand(small(), "repvgg")
    with pytest.raises(RecipeError, match=r"RK706.*expanded already"):
        reparamkit.expand(train, "repvgg")


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.free = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.free(torch.relu(x)) * self.conv.weight.mean()


class Own(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


def shared() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))


def tied() -> nn.Module:
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    model[1].weight = model[0].weight
    return model


def watched() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    model[0].register_forward_hook(lambda m, args, out: out * 2)
    return model


def normed() -> nn.Module:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(conv, nn.Conv2d(4, 4, 3, padding=1))


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "its tensors are read past its forward": (Reads, {"RK301"}),
    "a subclass": (lambda: nn.Sequential(Own(4, 4, 3), nn.Conv2d(4, 4, 3)), {"RK330"}),
    "two names": (shared, {"RK301"}),
    "tied weights": (tied, {"RK301"}),
    "a hook": (watched, {"RK306"}),
    "weight norm": (normed, {"RK330"}),
}


@pytest.mark.parametrize(("build", "codes"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_layers_that_are_left_alone(build: Callable[[], nn.Module], codes: set[str]) -> None:
    """Nothing is guessed: the layer stays as it is, with the reason; the others are expanded."""
    model = build().double().eval()
    train, report = reparamkit.expand(model, "repvgg", return_report=True)
    assert {r.code for r in report.refused} == codes
    assert len(report.layers) == 1
    assert apart(model, train, inputs((2, 4, 9, 9))) <= 1e-12


def test_a_layer_called_at_two_places_keeps_its_one_block() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.relu(self.conv(x)))

    model = Twice().double().eval()
    x = inputs((2, 4, 6, 6))
    train = reparamkit.expand(model, "repvgg")
    moved(train, x)
    deploy = reparamkit.apply(train)
    assert type(deploy.conv) is nn.Conv2d
    assert apart(train, deploy, x) <= 1e-9


def test_scratch_starts_from_the_papers_numbers() -> None:
    model = small()
    train: Any = reparamkit.expand(model, "lora", init="scratch")
    assert not train.head.lora[1].weight.any()
    train = reparamkit.expand(model, "repvgg", init="scratch")
    bound = 1 / 27**0.5
    assert train.stem.conv3x3.conv.weight.abs().max() <= bound
    assert apart(model, train, inputs(IMAGES)) > 1e-3
    deploy = reparamkit.apply(train, "repvgg")
    assert leaves(deploy) == leaves(model)
    assert apart(train, deploy, inputs(IMAGES)) <= 1e-9


def test_branches_too_narrow_to_hold_the_layer_are_refused_unless_from_scratch() -> None:
    spec = recipe([{"conv": {"kernel_size": 1, "channels": "0.5*in"}}, "conv"])
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).double().eval()
    train, report = reparamkit.expand(model, spec, return_report=True)
    assert {r.code for r in report.refused} == {"RK341"}
    assert leaves(train) == leaves(model)
    train, report = reparamkit.expand(model, spec, init="scratch", return_report=True)
    assert len(report.layers) == 1


def test_frozen_layer_keeps_its_kernel_frozen() -> None:
    model = small()
    model.requires_grad_(False)
    train: Any = reparamkit.expand(model, "lora")
    frozen = {n for n, p in train.named_parameters() if not p.requires_grad}
    assert {n for n, p in train.named_parameters()} - frozen == {"head.lora.linear.weight", "head.lora.linear_1.weight"}


def test_lora_trains_only_the_small_path() -> None:
    model = small()
    train: Any = reparamkit.expand(model, "lora")
    base = train.head.base.weight.clone()
    moved(train, inputs(IMAGES))
    moved(train, inputs(IMAGES))
    assert torch.equal(train.head.base.weight, base)
    assert train.head.lora.linear_1.weight.abs().max() > 0
    deploy = reparamkit.apply(train, "lora")
    assert gap(deploy.head.weight.data, model.head.weight.data) > 1e-6
    assert apart(train, deploy, inputs(IMAGES)) <= 1e-12


@pytest.mark.parametrize("name", ["repvgg", "dbb", "qarepvgg"])
def test_statistics_of_real_data_keep_the_function_in_training_mode(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()).double().eval()
    x = inputs((8, 3, 12, 12)) * 3 + 1
    fresh = reparamkit.expand(model, name)
    rng = torch.get_rng_state()
    train = reparamkit.expand(model, name, example_inputs=x)
    assert apart(model, train, x) <= 1e-12
    assert apart(model, train.train(), x) <= (1e-6 if name != "dbb" else 0.1)
    assert apart(model, fresh.train(), x) > 0.2
    assert leaves(reparamkit.apply(train.eval(), name)) == leaves(model)
    assert not torch.equal(rng, torch.get_rng_state())  # new weights are drawn from it, as everywhere in torch


def test_an_example_that_fails_takes_everything_back() -> None:
    model = small()
    with pytest.raises(RuntimeError):
        reparamkit.expand(model, "repvgg", inplace=True, example_inputs=torch.zeros(1, 7, 4, 4).double())
    assert leaves(model) == leaves(Small())


def test_parameter_groups() -> None:
    train = reparamkit.expand(small(), "repvgg")
    groups = parameter_groups(train, weight_decay=0.1, branches={"conv1x1*": {"lr": 0.5}})
    by_name = {g["name"]: g for g in groups}
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(train.parameters()))
    assert sum(len(g["params"]) for g in groups) == len(list(train.parameters()))
    norms = {id(p) for m in train.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    for group in groups:
        has_norm = any(id(p) in norms for p in group["params"])
        assert group["weight_decay"] == (0.0 if group["name"].endswith("no_decay") else 0.1)
        assert not has_norm or group["weight_decay"] == 0.0
    assert by_name["conv1x1/decay"]["lr"] == by_name["conv1x1/no_decay"]["lr"] == 0.5
    assert "lr" not in by_name["/decay"]
    assert {id(p) for p in by_name["conv3x3/decay"]["params"]} == {
        id(getattr(train, n).conv3x3.conv.weight) for n in ("stem", "down")
    } | {id(train.body[0].conv3x3.conv.weight)}
    torch.optim.SGD(groups, lr=0.1)


@settings(max_examples=120)
@given(st.data())
def test_online_training_is_training_of_the_branches(data: st.DataObject) -> None:
    """The same outputs and the same gradients as with the branches themselves, whatever the geometry."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    layer = data.draw(layers())
    if isinstance(layer, nn.Linear):
        branches: list[Any] = [["linear"], [{"linear": {"channels": 3}}, "linear", "scale"]]
    else:
        point = {"conv": {"kernel_size": 1, "bias": True}}
        branches = [["conv"], [point, "scale"], ["identity"], [point, "conv"], ["avgpool", point], ["scale"]]
    spec = recipe(*branches, match={"type": "linear" if isinstance(layer, nn.Linear) else "conv"})
    model = nn.Sequential(layer).double()
    torch.manual_seed(1)
    plain: Any = reparamkit.expand(model, spec)
    torch.manual_seed(1)
    online: Any = reparamkit.expand(model, spec, online=True)
    x = inputs(shape_for(layer))
    wanted, got = plain(x), online(x)
    assert gap(wanted.detach(), got.detach()) <= 1e-12
    wanted.pow(2).sum().backward()
    got.pow(2).sum().backward()
    for one, other in zip(plain.parameters(), online.parameters(), strict=True):
        assert gap(one.grad, other.grad) <= 1e-9
    assert apart(online.eval(), reparamkit.apply(online, spec), x) <= 1e-12


def test_online_orepa_runs_one_convolution_on_the_batch() -> None:
    train: Any = reparamkit.expand(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), "orepa", online=True)
    sizes: list[tuple[int, ...]] = []
    with _Convs(sizes):
        train.train()(torch.randn(4, 8, 32, 32))
    assert sum(size[-1] >= 32 for size in sizes) == 1
    assert len(sizes) > 4


class _Convs(TorchDispatchMode):
    def __init__(self, sizes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func):
            self.sizes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_online_needs_branches_without_batch_norm() -> None:
    with pytest.raises(RecipeError, match=r"RK342.*bn in a branch"):
        reparamkit.expand(small(), "repvgg", online=True)


def test_wrong_arguments() -> None:
    with pytest.raises(reparamkit.ModelError, match="RK603"):
        reparamkit.expand(torch.relu, "repvgg")  # type: ignore[call-overload]
    with pytest.raises(reparamkit.ModelError, match=r"RK603.*example_inputs"):
        reparamkit.expand(small(), "repvgg", example_inputs=3)
    with pytest.raises(reparamkit.ModelError, match="RK505"):
        reparamkit.expand(Small().to("meta"), "repvgg")
    with pytest.raises(RecipeError, match=r"RK706.*no 'expand' section"):
        reparamkit.expand(small(), "fold_bn")
    with pytest.raises(RecipeError, match=r"RK706.*kernel_size: 5"):
        reparamkit.expand(small(), recipe(*REPVGG, match={"kernel_size": 5}))


def test_sections_the_first_that_matches_has_the_layer() -> None:
    spec = recipe(*REPVGG, match={"name": "body.*"})
    spec["expand"].append({"match": {"kernel_size": 3}, "branches": [["conv", "bn"], ["conv", "bn"]]})
    report = reparamkit.expand(small(), spec, return_report=True)[1]
    assert {one.path: len(one.branches) for one in report.layers} == {"stem": 2, "body.0": 3, "down": 2}
    assert report.layers[0].branches == ("conv3x3", "conv3x3_1")


class Gate(nn.Module):
    """An operation of a plugin that no rule reads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * x


class PluginOfBranches:
    """Brings `double` (affine, and read by the built-in rules) and `gate` (not affine)."""

    @reparamkit.hookimpl
    def reparamkit_branches(self) -> list[BranchOp]:
        return [
            BranchOp("double", lambda options, place: Scale(1, place.nd, 2.0, train=False), "twice the input"),
            BranchOp("gate", lambda options, place: Gate()),
        ]


def test_operations_of_a_plugin() -> None:
    plugin = PluginOfBranches()
    spec = recipe(["conv", "bn"], ["double"])
    with pytest.raises(RecipeError, match=r"RK709.*'double'"):
        load_recipe(spec)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).double().eval()
    train = reparamkit.expand(model, spec, plugins=[plugin])
    assert apart(model, train, inputs((2, 4, 6, 6))) <= 1e-12
    assert leaves(reparamkit.apply(train, spec, plugins=[plugin])) == [nn.Conv2d]


def test_an_operation_that_is_not_affine_is_found_out_before_anything_changes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).double().eval()
    before = snapshot(model)
    del before["rng"]
    with pytest.raises(RecipeError, match="RK710"):
        reparamkit.expand(model, recipe(["conv", "bn"], ["gate"]), plugins=[PluginOfBranches()], inplace=True)
    assert_untouched(model, before)


def test_two_plugins_with_one_operation() -> None:
    class Other:
        @reparamkit.hookimpl
        def reparamkit_branches(self) -> list[BranchOp]:
            return [BranchOp("bn", lambda options, place: nn.Identity())]

    with pytest.raises(reparamkit.PluginError, match=r"RK803.*'bn'"):
        reparamkit.expand(small(), "repvgg", plugins=[Other()])
