"""What a conversion costs besides time: imports, memory that stays, depth."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.blocks import DiverseBranchBlock, RepVGGBlock
from tests.helpers import assert_same, counts

HEAVY = "typer rich jinja2 matplotlib onnx onnxscript onnxruntime sklearn timm ultralytics transformers torchvision"


def test_converting_imports_nothing_heavy() -> None:
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import reparamkit\n"
        "reparamkit.apply, reparamkit.plan, reparamkit.verify\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(done.stdout.split())
    assert "reparamkit" in added
    assert not added & {*HEAVY.split(), "sympy", "numpy"}


def test_the_package_alone_does_not_import_torch() -> None:
    code = "import sys, reparamkit; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def tensors() -> set[int]:
    gc.collect()
    return {id(o) for o in gc.get_objects() if issubclass(type(o), Tensor)}


def blocks() -> nn.Module:
    return randomize(nn.Sequential(RepVGGBlock(8, 8), DiverseBranchBlock(8), RepVGGBlock(8, 8)))


def test_no_tensor_but_the_models_is_left_in_memory() -> None:
    reparamkit.apply(blocks(), inplace=True)  # caches of torch and of the package
    before = tensors()
    model = blocks()
    reparamkit.apply(model, inplace=True)
    left = tensors() - before
    assert left <= {id(t) for m in model.modules() for t in (*m.parameters(), *m.buffers())}


def test_what_was_merged_is_freed() -> None:
    model = blocks()
    old = [weakref.ref(t) for t in (*model.parameters(), *model.buffers())]
    reparamkit.apply(model, inplace=True)
    gc.collect()
    kept = {id(t) for t in (*model.parameters(), *model.buffers())}
    assert [r for r in old if r() is not None and id(r()) not in kept] == []


def test_a_copy_shares_nothing_and_never_clones_what_goes() -> None:
    """Every tensor made on the way is counted: no more numbers than merged ones and those that are copied."""
    model = randomize(nn.Sequential(*[RepVGGBlock(64, 64) for _ in range(3)], nn.Conv2d(64, 64, 3)))
    dense = 3 * 64 * 64 * 9
    clones: list[int] = []
    original = Tensor.__deepcopy__

    def counted(self: Tensor, memo: dict[int, object]) -> Tensor:
        clones.append(self.numel())
        return original(self, memo)

    Tensor.__deepcopy__ = counted
    try:
        converted = reparamkit.apply(model)
    finally:
        Tensor.__deepcopy__ = original
    assert sum(clones) < dense / 2 + 64 * 64 * 9 + 64
    shared = {t.data_ptr() for t in converted.parameters()} & {t.data_ptr() for t in model.parameters()}
    assert not shared


class Nested(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_blocks_nested_four_hundred_deep() -> None:
    """Deeper than a forward of torch itself gets with the usual recursion limit, so only the structure is looked at."""
    limit = sys.getrecursionlimit()
    model: nn.Module = RepVGGBlock(4, 4)
    for _ in range(400):
        model = Nested(model)
    model = randomize(model).double()
    converted = reparamkit.apply(model)
    assert counts(model)[0] == 2
    assert reparamkit.apply(model, inplace=True) is model
    assert sys.getrecursionlimit() == limit
    assert counts(converted) == counts(model) == (1, 0)
    assert converted.state_dict().keys() == model.state_dict().keys()


def test_four_hundred_nested_sequentials() -> None:
    model: nn.Module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    for _ in range(400):
        model = nn.Sequential(model)
    model = randomize(model).double()
    merged = reparamkit.apply(model, inplace=True)
    assert counts(merged) == (1, 0)


def test_a_chain_of_a_hundred_blocks_is_exact() -> None:
    model = randomize(nn.Sequential(*[nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(100)]))
    with torch.no_grad():
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
            nn.init.orthogonal_(conv.weight)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.copy_(norm.running_var.sqrt())
    model = model.double()
    assert_same(model, reparamkit.apply(model), (1, 4, 3, 3))


class NormAndDrop(nn.Module):
    """As timm's `BatchNormAct2d`: a norm, and a dropout that does nothing behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(channels), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x))


class Branches(nn.Module):
    """A block whose forward is written anew."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense, self.dense_norm = nn.Conv2d(channels, channels, 3, padding=1), NormAndDrop(channels)
        self.norm = NormAndDrop(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense_norm(self.dense(x)) + self.norm(x))


class Chunks(nn.Module):
    """As ultralytics' `C2f`: a forward that goes several ways, around layers that are exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        found = list(self.first(x).chunk(2, 1))
        found.extend(layer(found[-1]) for layer in self.layers)
        return torch.cat(found, 1)


def test_a_model_that_leaves_nothing_open_is_planned_once() -> None:
    for model, merges in ((Branches(4), 1), (Chunks(), 3)):
        plan = reparamkit.plan(randomize(model).eval())
        assert len(plan.edits) == merges
        assert not plan.opens
