"""What the tests of conversions share: random numbers in every layer, exact comparison, proof of an untouched model."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import Report
from reparamkit.testing import randomize

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
RTOL = 1e-9
IMAGES = ((1, 4, 7, 7), (2, 4, 8, 5), (2, 4, 6, 9))
Shape = tuple[int, ...]


def counts(model: nn.Module) -> tuple[int, int]:
    """How many convolutions (linear layers included) and normalisations there are."""
    modules = list(model.modules())
    convs = sum(isinstance(m, (*CONVS, nn.Linear)) for m in modules)
    return convs, sum(isinstance(m, NORMS) for m in modules)


def gap(wanted: Any, got: Any) -> float:
    """Largest difference of two outputs relative to the largest magnitude; infinite when they are built differently."""
    if isinstance(wanted, Tensor) and isinstance(got, Tensor):
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            return float("inf")
        if wanted.numel() == 0:
            return 0.0
        return float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if isinstance(wanted, dict) and isinstance(got, dict) and list(wanted) == list(got):
        return max(gap(wanted[k], got[k]) for k in wanted)
    if isinstance(wanted, (list, tuple)) and type(wanted) is type(got) and len(wanted) == len(got):
        return max(gap(a, b) for a, b in zip(wanted, got, strict=True))
    return 0.0 if wanted == got else float("inf")


def inputs(shape: Shape, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random input from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_same(model: nn.Module, converted: nn.Module, *shapes: Shape, rtol: float = RTOL) -> None:
    """Both compute the same in float64 on random inputs of `shapes` (images of 4 channels by default).

    Both models must be in float64 already: weights that were rounded to float32 cannot agree that well.
    """
    for seed, shape in enumerate(shapes or IMAGES):
        x = inputs(shape, seed)
        with torch.no_grad():
            wanted, got = model(x.clone()), converted(x.clone())
        error = gap(wanted, got)
        assert error <= rtol, f"relative error {error:.3g} on {shape}\n{converted}"


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model, and about the process, that looking at it must not change."""
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "state": {name: _bits(t) for name, t in tensors},
        "keys": list(model.state_dict()),
        "tensors": [(n, id(t), 0 if t.is_inference() else t._version, t.stride(), t.grad_fn) for n, t in tensors],
        "grads": [(n, id(t.grad)) for n, t in tensors if t.is_leaf],
        "modules": [(n, id(m), type(m), m.training) for n, m in modules],
        "attributes": [(n, {k: repr(v) for k, v in m.__dict__.items() if k not in _TREE}) for n, m in modules],
        "children": [(n, list(m._modules), [id(c) for c in m._modules.values()]) for n, m in modules],
        "registries": [(n, list(m._parameters), list(m._buffers), m._non_persistent_buffers_set) for n, m in modules],
        "hooks": [(n, k, list(v)) for n, m in modules for k, v in m.__dict__.items() if k.endswith("_hooks")],
        "requires_grad": [(n, t.requires_grad) for n, t in tensors],
        **_process(),
    }


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """Every bit: a NaN is itself here, and a negative zero no positive one."""
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def rng_state() -> Any:
    """Of torch's random numbers, as `snapshot` has it."""
    return _bits(torch.get_rng_state())


def _process() -> dict[str, Any]:
    """What belongs to no model."""
    return {
        "modes": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "switches": (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), sys.getrecursionlimit()),
        "patches": (nn.Module.__call__, nn.Module.__getattr__),
        "global hooks": [list(v) for k, v in sorted(vars(nn.modules.module).items()) if k.startswith("_global_f")],
        "rng": rng_state(),
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
    }


_TREE = frozenset({"_modules", "_parameters", "_buffers"})


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    """The model and the process are bit for bit what `snapshot` saw."""
    after = snapshot(model)
    changed = [key for key in before if after[key] != before[key]]
    assert not changed, f"changed: {', '.join(changed)}"


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, refusals and errors included, leaves the model and the process as they were."""
    before = snapshot(model)
    yield
    assert_untouched(model, before)


def convert(model: nn.Module, *shapes: Shape, seed: int = 0, **options: Any) -> tuple[nn.Module, Report]:
    """Convert a copy of `model` in float64 with random numbers; exact, and the model untouched, whatever was merged."""
    randomize(model, seed).double()
    return convert_as_is(model, *shapes, **options)


def convert_as_is(model: nn.Module, *shapes: Shape, **options: Any) -> tuple[nn.Module, Report]:
    """`convert` for a model that already has the numbers it should have."""
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True, **options)
    original = copy.deepcopy(model)
    assert_same(original, converted, *shapes)
    return converted, report


def codes(report: Report) -> set[str]:
    """The codes of everything refused."""
    return {r.code for r in (*report.refused, *report.untraceable)}


def places(report: Report, code: str) -> list[str]:
    """Where `code` was given as the reason."""
    return [r.where for r in (*report.refused, *report.untraceable) if r.code == code]


def conv_bn(*args: Any, nd: int = 2, **options: Any) -> list[nn.Module]:
    """A convolution (arguments of `nn.ConvNd`) and the batch norm behind it."""
    conv: Any = getattr(nn, f"Conv{nd}d")(*args, **options)
    return [conv, getattr(nn, f"BatchNorm{nd}d")(conv.out_channels)]


class Fn(nn.Module):
    """A module whose forward is `run(self, x)`, with `children` as its attributes; for one-line models in tests."""

    def __init__(self, run: Any, **children: Any) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def branches(*modules: nn.Module) -> Fn:
    """The sum of `modules`."""
    return Fn(lambda m, x: sum(f(x) for f in m.all), all=nn.ModuleList(modules))


def merged_rules(report: Report) -> set[str]:
    """Ids of all rules that were used."""
    return {rule for merge in report.merged for rule in merge.rules}
