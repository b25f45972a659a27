"""One model: converted without a recipe, and everything that must hold afterwards."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from traceback import format_exc
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import reparamkit
from reparamkit.errors import VerificationError
from reparamkit.verify import largest_gap
from zoo.counting import run
from zoo.models import Built, build
from zoo.numbers import randomize

TOLERANCE = 1e-6  # of whole models in float64; an error of a conversion is far larger, rounding far smaller


def check(spec: str) -> dict[str, Any]:
    """Everything about the model `spec` names, as plain data; `problems` is empty when all is well."""
    try:
        built = build(spec)
        if built.default_dtype:
            torch.set_default_dtype(torch.float64)
        model = randomize(built.model.double().eval(), built.inputs)
        wanted, before = run(model, built.inputs)
    except Exception as error:  # it does not run as it is; that says nothing about the conversion
        return {"spec": spec, "problems": [f"not run: {type(error).__name__}: {error}"], "trace": format_exc()}
    kept = {k: v.clone() for k, v in _tensors(model).items()}
    started = time.perf_counter()
    deploy, report = reparamkit.apply(model, return_report=True)
    seconds = time.perf_counter() - started
    got, after = run(deploy, built.inputs)
    error = _gap(wanted, got)
    made = reparamkit.plan(model)
    problems = [*_state_problems(model, deploy, kept, made)]
    if not error <= TOLERANCE:
        problems.append(f"wrong: relative error {error:.3g}")
    if not isinstance(deploy, type(model)):
        problems.append(f"class changed to {type(deploy).__name__}")
    again = reparamkit.apply(deploy, return_report=True)[1].merged if reparamkit.plan(deploy).edits else ()
    if again:
        problems.append(f"a second conversion makes {len(again)} more merges")
    own = _own(built, wanted, before)
    if own.counts is not None and not own.drops and any(after[k] > own.counts[k] for k in ("conv", "norm")):
        problems.append("less merged than by the package's own converter")
    return {
        "spec": spec,
        "params": sum(p.numel() for p in model.parameters()),
        "before": before,
        "after": after,
        "own": own.counts,
        "own_drops": own.drops,
        "own_error": own.error,
        "error": error,
        "seconds": round(seconds, 3),
        "merged": len(report.merged),
        "left": _left(deploy, built.inputs, report) if after["norm"] else {"codes": {}, "silent": []},
        "refused": dict(Counter(r.code for r in report.refused)),
        "untraceable": [f"{r.where}: {r.reason}" for r in report.untraceable],
        "problems": problems,
    }


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _gap(wanted: Any, got: Any) -> float:
    try:
        return largest_gap(wanted, got)
    except VerificationError:
        return float("inf")


def _state_problems(model: nn.Module, deploy: nn.Module, kept: dict[str, Tensor], made: Any) -> list[str]:
    """Tensors of the original that moved, and those of the converted model that moved without an edit of theirs."""
    now = _tensors(model)
    if now.keys() != kept.keys() or any(not _same(now[k], v) for k, v in kept.items()):
        return ["the original changed"]
    edited = _all_names(model, {path for planned in made.edits for path in planned.edit.touched})
    inside = {p.edit.path for p in made.edits if p.name}
    moved = []
    for name, tensor in _tensors(deploy).items():
        owner = name.rpartition(".")[0]
        same = name in kept and _same(kept[name], tensor)
        mine = owner in edited - inside or any(owner == f"{p}.{n}".lstrip(".") for p, n in _merged(made))
        if not same and not mine:
            moved.append(name)
    return [f"changed outside the edits: {', '.join(moved[:3])}"] if moved else []


def _all_names(model: nn.Module, paths: set[str]) -> set[str]:
    """These paths, and the others under which the same modules are held."""
    found = {id(model.get_submodule(path)) for path in paths}
    return {path for path, module in model.named_modules(remove_duplicate=False) if id(module) in found}


def _merged(made: Any) -> set[tuple[str, str]]:
    return {(p.edit.path, p.name) for p in made.edits if p.name}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


class _Neighbours:
    """Watches one run: which batch norms stand directly beside a convolution or linear layer.

    Attributes:
        norms: whether each batch norm that ran, by path, does.
        readers: the layers that read a batch norm's result, by its path.
    """

    def __init__(self) -> None:
        self.norms: dict[str, bool] = {}
        self.readers: dict[str, set[str]] = {}
        self._made: dict[tuple[int, int], str] = {}  # tensors in the state a layer ("") or a batch norm left them in
        self._alive: list[Any] = []

    def ran(self, path: str, module: nn.Module, x: Any, out: Any) -> None:
        """Note one call; a tensor that was changed in place since is not what the layer returned any more."""
        before = self._made.get(_state_of(x))
        if isinstance(module, _BatchNorm):
            self.norms.setdefault(path, before == "")
            if type(module).__module__.startswith("torch.nn"):
                self._made[_state_of(out)] = path
        else:
            if before:
                self.norms[before] = True
                self.readers.setdefault(before, set()).add(path)
            self._made[_state_of(out)] = ""
        self._alive += [x, out]


def _state_of(x: Any) -> tuple[int, int]:
    return (id(x), x._version) if isinstance(x, Tensor) else (id(x), 0)


_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def _left(deploy: nn.Module, inputs: Any, report: Any) -> dict[str, Any]:
    """Batch norms that still run, by the reason; those beside a convolution or linear layer without one, by name."""
    found = _Neighbours()

    def hook(path: str) -> Any:
        return lambda module, args, out: found.ran(path, module, args[0] if args else None, out)

    watched = [(n, m) for n, m in deploy.named_modules() if isinstance(m, (_BatchNorm, *_LINEAR))]
    handles = [m.register_forward_hook(hook(n)) for n, m in watched]
    run(deploy, inputs)
    for handle in handles:
        handle.remove()
    codes: Counter[str] = Counter()
    silent = []
    for path, beside in found.norms.items():
        places = (path, *found.readers.get(path, ()))
        reasons = [r for r in (*report.refused, *report.untraceable) if any(_about(r.where, p) for p in places)]
        codes[reasons[0].code if reasons else "beside nothing linear" if not beside else "no reason"] += 1
        if beside and not reasons:
            silent.append(path)
    return {"codes": dict(codes), "silent": silent[:5]}


def _about(where: str, path: str) -> bool:
    """Whether a refusal at `where` is about the norm at `path`, or about the forward that calls it."""
    return where in (path, path.rpartition(".")[0] or "(root)") or where.startswith(f"{path}.")


@dataclass(frozen=True)
class _Own:
    """What the package's own converter did.

    Attributes:
        counts: the kernels it left.
        drops: whether it took outputs of the model away (a head that only training needs), and their kernels with it.
        error: what stopped it.
    """

    counts: dict[str, int] | None = None
    drops: bool = False
    error: str = ""


def _own(built: Built, wanted: Any, before: dict[str, int]) -> _Own:
    """The package's own converter, in float32 as it wants it; `before` are the kernels of the model as it was."""
    if built.own is None:
        return _Own()
    try:
        plain = built.fresh()
        layers = [type(module) for module in plain.modules()]
        converted = built.own(plain)
        if layers == [type(module) for module in converted.modules()]:
            return _Own(before)
        out, counts = run(converted.float().eval(), _floats(built.inputs))
    except Exception as error:  # foreign code; that it fails is worth a note in the row
        return _Own(error=f"{type(error).__name__}: {error}".split("\n")[0][:120])
    try:
        largest_gap(wanted, out)
    except VerificationError:  # built differently
        return _Own(counts, drops=True)
    return _Own(counts)


def _floats(inputs: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )
