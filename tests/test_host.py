"""What survives a conversion: the class and everything that is done with a model afterwards."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import reparamkit
from reparamkit import Report
from tests import blocks
from tests.blocks import Net, WithOptions
from tests.helpers import assert_same, assert_untouched, gap, inputs, randomize, snapshot
from tests.zoo import counts

ROOT = Path(__file__).parent.parent
SHAPE = (2, 3, 12, 10)


def net(dtype: torch.dtype = torch.float64) -> Net:
    model = randomize(Net()).to(dtype)
    assert isinstance(model, Net)
    return model


def deploy(model: nn.Module | None = None, **options: Any) -> Any:
    return reparamkit.apply(net() if model is None else model, **options)


def x_of(dtype: torch.dtype = torch.float64) -> Tensor:
    return inputs(SHAPE, dtype=dtype)


def assert_equal(a: nn.Module, b: Any, dtype: torch.dtype = torch.float64, rtol: float = 1e-12) -> None:
    with torch.no_grad():
        assert gap(a(x_of(dtype)), b(x_of(dtype))) <= rtol


class TestTheClass:
    def test_model_keeps_it(self) -> None:
        converted = deploy()
        assert type(converted) is Net
        assert converted.classes == 5

    def test_rewritten_block_is_still_one(self) -> None:
        block = deploy().stages[1]
        assert isinstance(block, blocks.RepVGGBlock)
        assert type(block).__name__ == "RepVGGBlock"
        assert (block.in_channels, block.width, block.describe()) == (8, 8, "RepVGGBlock of 4 groups")

    def test_attributes_put_on_from_outside_survive(self) -> None:
        model: Any = net()
        for index, stage in enumerate(model.stages):
            stage.f, stage.i, stage.type = -1, index, "block"
        assert [(s.f, s.i, s.type) for s in deploy(model).stages] == [(-1, i, "block") for i in range(4)]

    def test_repr_reads_like_the_model(self) -> None:
        text = repr(deploy())
        assert "RepVGGBlock(" in text
        assert "BatchNorm" not in text
        assert "reparamkit" not in text


class TestTheObject:
    def test_in_place_is_the_same_object(self) -> None:
        model = net()
        stages = list(model.stages)
        assert deploy(model, inplace=True) is model
        assert [a is b for a, b in zip(stages, model.stages, strict=True)] == [True] * 4
        assert counts(model) == (8, 0)

    def test_copy_shares_no_memory(self) -> None:
        model = net()
        held = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()] if t.numel()}
        made = {t.untyped_storage().data_ptr() for t in [*deploy(model).parameters()]}
        assert not held & made

    def test_hooks_on_what_stays_still_fire(self) -> None:
        model, seen = net(), []
        model.head.register_forward_hook(lambda *_: seen.append("head"))
        model.stages[0].nonlinearity.register_forward_pre_hook(lambda *_: seen.append("relu"))
        assert_equal(net(), deploy(model))
        assert seen == ["relu", "head"]

    @pytest.mark.parametrize("frozen", ["all", "stem"])
    def test_requires_grad_is_kept(self, frozen: str) -> None:
        model = net()
        (model if frozen == "all" else model.stem).requires_grad_(False)
        grads = {name: p.requires_grad for name, p in deploy(model).named_parameters()}
        assert grads
        assert [n for n, g in grads.items() if not g] == [n for n in grads if frozen == "all" or n.startswith("stem.")]

    def test_channels_last_is_kept(self) -> None:
        converted = deploy(net().to(memory_format=torch.channels_last))
        kernels = [p for p in converted.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert kernels
        assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 0.03)])
    def test_other_dtypes(self, dtype: torch.dtype, rtol: float) -> None:
        model = net(dtype)
        converted = deploy(model)
        assert {p.dtype for p in converted.parameters()} == {dtype}
        assert counts(converted) == (8, 0)
        assert_equal(model, converted, dtype, rtol)
        assert reparamkit.verify(model, converted, x_of(dtype)).error < 0.5


class TestCopiesAndFiles:
    def test_deepcopy(self) -> None:
        converted = deploy()
        twin = copy.deepcopy(converted)
        assert_equal(converted, twin, rtol=0)
        with torch.no_grad():
            twin.stages[0].reparam.weight.zero_()
        assert converted.stages[0].reparam.weight.abs().max() > 0

    def test_whole_model(self, tmp_path: Path) -> None:
        converted = deploy()
        torch.save(converted, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        assert_equal(converted, again, rtol=0)
        assert [type(m) for m in again.modules()] == [type(m) for m in converted.modules()]

    def test_state_dict(self, tmp_path: Path) -> None:
        first, other = deploy(), deploy(randomize(Net(), seed=5).double())
        torch.save(first.state_dict(), tmp_path / "weights.pt")
        other.load_state_dict(torch.load(tmp_path / "weights.pt"), strict=True)
        assert_equal(first, other, rtol=0)

    def test_pickle_in_a_process_that_converted_nothing(self, tmp_path: Path) -> None:
        converted, x = deploy(), x_of()
        with torch.no_grad():
            payload = (converted, x, converted(x))
        (tmp_path / "payload.pkl").write_bytes(pickle.dumps(payload))
        code = (
            "import pickle, sys, torch\n"
            "model, x, wanted = pickle.load(open(sys.argv[1], 'rb'))\n"
            "assert torch.allclose(model(x), wanted, rtol=1e-9, atol=1e-12)\n"
            "print(type(model.stages[0]).__mro__[1].__qualname__)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "payload.pkl")],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "RepVGGBlock"


class TestCompilers:
    """Each takes the converted model as it would take the original."""

    @pytest.fixture(autouse=True)
    def _quiet(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations, which change with every release
            yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_compile(self, backend: str) -> None:
        converted = deploy()
        assert_equal(converted, torch.compile(converted, backend=backend, fullgraph=True))

    def test_export(self) -> None:
        converted = deploy()
        program = torch.export.export(converted, (x_of(),))
        assert_equal(converted, program.module())
        calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
        assert sum("conv" in c for c in calls) == 8
        assert not any("batch_norm" in c for c in calls)

    def test_jit_trace(self) -> None:
        converted = deploy()
        assert_equal(converted, torch.jit.trace(converted, x_of()))

    @pytest.mark.parametrize(
        "build", [blocks.ACBlock, blocks.RepVGGDW, blocks.TextNetBlock, blocks.DilatedReparamBlock]
    )
    def test_jit_script(self, build: Any) -> None:
        block = randomize(build()).double()
        converted = deploy(block)
        assert counts(converted) == (1, 0)
        assert_same(block, torch.jit.script(converted), (2, 8, 9, 7))

    def test_fx(self) -> None:
        converted = deploy()
        graph = fx.symbolic_trace(converted)
        assert_equal(converted, graph)
        assert fx.symbolic_trace(converted.stages[0]).graph.find_nodes(op="call_module", target="reparam")

    def test_onnx(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        converted, x = deploy(net(torch.float32)), x_of(torch.float32)
        torch.onnx.export(converted, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
        nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
        assert (nodes.count("Conv"), nodes.count("BatchNormalization"), nodes.count("Add")) == (8, 0, 0)
        session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            assert gap(converted(x), torch.from_numpy(got)) <= 1e-5


class TestTraining:
    def test_a_step_reaches_every_parameter(self) -> None:
        converted = deploy().train()
        optimizer = torch.optim.SGD(converted.parameters(), lr=1e-3)
        before = {name: p.detach().clone() for name, p in converted.named_parameters()}
        loss = F.cross_entropy(converted(x_of()), torch.tensor([1, 2]))
        loss.backward()
        optimizer.step()
        assert [n for n, p in converted.named_parameters() if p.grad is None] == []
        assert [n for n, p in converted.named_parameters() if torch.equal(p, before[n])] == []
        with torch.no_grad():
            assert F.cross_entropy(converted(x_of()), torch.tensor([1, 2])) < loss

    def test_of_the_copy_leaves_the_original_alone(self) -> None:
        model = net()
        converted = deploy(model)
        before = snapshot(model)
        with torch.no_grad():
            for parameter in converted.parameters():
                parameter.add_(1)
        assert_untouched(model, before)


class TestArguments:
    def converted(self) -> tuple[nn.Module, Any]:
        model = randomize(WithOptions()).double()
        return model, deploy(model)

    @pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1.0,), {}), ((), {"scale": 1.0, "extra": None})])
    def test_defaults_may_be_said_aloud(self, args: tuple[float, ...], kwargs: dict[str, Any]) -> None:
        model, converted = self.converted()
        assert counts(converted) == (1, 0)
        with torch.no_grad():
            assert gap(model(x_of()), converted(x_of(), *args, **kwargs)) <= 1e-12
            assert gap(model(x_of()), converted(x=x_of(), **kwargs)) <= 1e-12

    @pytest.mark.parametrize("kwargs", [{"scale": 2.0}, {"extra": torch.ones(1)}, {"scale": None}])
    def test_others_are_not_ignored(self, kwargs: dict[str, Any]) -> None:
        _, converted = self.converted()
        with pytest.raises(RuntimeError, match="RK103"):
            converted(x_of(), **kwargs)


class TestFailure:
    """Whatever goes wrong half-way, the model is bit for bit what it was."""

    @pytest.mark.parametrize("inplace", [True, False])
    @pytest.mark.parametrize("step", ["_take_parameters", "_put", "_rewrite", "rewritten_class"])
    @pytest.mark.parametrize("at", [0, 1])
    def test_in_a_step(self, monkeypatch: pytest.MonkeyPatch, step: str, at: int, inplace: bool) -> None:
        from reparamkit.edits import splice

        calls, original = [], getattr(splice, step)

        def failing(*args: Any, **kwargs: Any) -> Any:
            calls.append(step)
            if len(calls) > at:
                raise MemoryError("no room")
            return original(*args, **kwargs)

        monkeypatch.setattr(splice, step, failing)
        model = net()
        before = snapshot(model)
        with pytest.raises(MemoryError, match="no room"):
            deploy(model, inplace=inplace)
        assert len(calls) == at + 1
        assert_untouched(model, before)
        assert_equal(net(), model, rtol=0)

    def test_when_the_model_does_not_meet_the_recipe(self) -> None:
        """Everything is in place when the recipe turns out to have expected more."""
        model = net()
        before = snapshot(model)
        recipe = {"version": 1, "name": "mine", "blocks": [{"match": {"structure": "any"}, "expect": {"convs": 0}}]}
        with pytest.raises(reparamkit.RecipeError, match="RK707"):
            deploy(model, recipe=recipe, inplace=True)
        assert_untouched(model, before)

    def test_report_and_model_agree(self) -> None:
        model = net()
        converted, report = reparamkit.apply(model, return_report=True)
        assert isinstance(report, Report)
        assert {m.path for m in report.merged} <= {path for path, _ in converted.named_modules()}
        assert_same(model, converted, SHAPE)
