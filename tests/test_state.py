"""What a conversion keeps: of everything that stays all that it was, of what merges what its sources were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.hazards.models import Block, C, same, seq

Convert = Callable[[nn.Module], nn.Module]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WAYS: dict[str, Convert] = {
    "a copy": reparamkit.apply,
    "in place": lambda m: reparamkit.apply(m, inplace=True),
    "with the original kept": lambda m: reparamkit.apply(m, inplace=True, keep_original=True),
    "by the plan of another": lambda m: _planned_elsewhere(m),  # type: ignore[dict-item]
}


def _planned_elsewhere(model: nn.Module) -> Any:
    return reparamkit.plan(randomize(copy.deepcopy(model), 5)).apply_to(model)


def _hook(module: nn.Module, args: Any, output: Any) -> None:
    """A hook that looks."""


class Rich(nn.Module):
    """Blocks that merge among things that stay, some between them in the order of registration."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.note, self.middle = Block(), nn.PReLU(C), Block()
        self.register_buffer("step", torch.tensor(3))
        self.register_buffer("scratch", torch.ones(2, 3), persistent=False)
        self.spare, self.last = nn.Parameter(torch.ones(2)), seq(nn.ReLU(), same(5, padding_mode="reflect"))
        self.config = {"width": C, "tags": ["a"]}
        self.empty = nn.ModuleDict()
        self.register_parameter("absent", None)
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.note(self.first(x))))


def rich(dtype: torch.dtype) -> Any:
    """The model with every flag set in another way than the default."""
    model: Any = randomize(Rich(), 3).to(dtype)
    model.middle.to(memory_format=torch.channels_last)
    model.last[1].weight.requires_grad = model.spare.requires_grad = model.note.weight.requires_grad = False
    for parameter in model.first.parameters():
        parameter.requires_grad = False
    model.note.register_forward_hook(_hook)
    model.last[0].register_forward_pre_hook(lambda module, args: None)
    model.register_full_backward_hook(lambda module, grad, out: None)
    model.last.anything = ("kept", 1)
    return model


def stays(model: Any) -> dict[str, Any]:
    """All there is about what is in no merge."""
    kept = {path: model.get_submodule(path) for path in ("", "note", "last", "last.0", "last.1", "empty")}
    tensors = {
        f"{path}.{name}": tensor
        for path, module in kept.items()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    return {
        "numbers": {k: None if t is None else t.tolist() for k, t in tensors.items()},
        "form": {
            k: (t.dtype, t.device, t.stride(), t.requires_grad, type(t)) for k, t in tensors.items() if t is not None
        },
        "modules": {k: (m.training, list(m._modules), list(m._parameters), list(m._buffers)) for k, m in kept.items()},
        "transient": {k: m._non_persistent_buffers_set for k, m in kept.items()},
        "classes": {k: type(m) for k, m in kept.items()},
        "hooks": {
            k: [list(h.values()) for n, h in m.__dict__.items() if n.endswith("_hooks")] for k, m in kept.items()
        },
        "attributes": (model.config, model.last.anything, model.absent, model.nothing),
        "order": [name for name, _ in model.named_modules() if name in kept or name in ("first", "middle")],
    }


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_in_no_merge_is_all_that_it_was(dtype: torch.dtype, how: str) -> None:
    model = rich(dtype)
    before = stays(model)
    converted = WAYS[how](model)
    assert sorted(name for name, _ in converted.named_modules() if name.endswith("reparam")) == [
        "first.reparam",
        "middle.reparam",
    ]
    after = stays(converted)
    assert [key for key in before if before[key] != after[key]] == []


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_merges_has_the_form_of_its_sources(dtype: torch.dtype, how: str) -> None:
    converted: Any = WAYS[how](rich(dtype))
    first, middle = converted.first.reparam, converted.middle.reparam
    assert {p.dtype for p in (*first.parameters(), *middle.parameters())} == {dtype}
    assert [p.requires_grad for p in first.parameters()] == [False, False]
    assert [p.requires_grad for p in middle.parameters()] == [True, True]
    assert not any(module.training for module in converted.modules())
    assert middle.weight.is_contiguous(memory_format=torch.channels_last)
    assert not middle.weight.is_contiguous()
    assert first.weight.is_contiguous()
    assert isinstance(converted.first, Block)
    assert list(converted._modules) == ["first", "note", "middle", "last", "empty"]
    assert list(converted.state_dict()) == [
        *("spare", "step", "first.reparam.weight", "first.reparam.bias", "note.weight"),
        *("middle.reparam.weight", "middle.reparam.bias", "last.1.weight", "last.1.bias"),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_is_that_of_the_sources() -> None:
    converted = reparamkit.apply(rich(torch.float32).cuda())
    assert {p.device.type for p in converted.parameters()} == {"cuda"}


def test_a_merged_layer_takes_the_place_of_the_first_that_went() -> None:
    """In a Sequential, whose order is what it computes."""
    model = randomize(seq(nn.ReLU(), same(bias=False), nn.BatchNorm2d(C), nn.Sigmoid(), Block()))
    converted = reparamkit.apply(model)
    assert [type(child).__name__ for child in converted] == ["ReLU", "Conv2d", "Folded", "Sigmoid", "Block"]
    assert list(converted._modules) == list(model._modules)
