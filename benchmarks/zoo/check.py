"""One model: converted without a recipe, and everything that must hold afterwards."""

from __future__ import annotations

import copy
import time
from collections import Counter
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
    again = reparamkit.plan(deploy)
    if again.edits:
        problems.append(f"a second conversion finds {len(again.edits)} more merges")
    own, own_error = _own(built)
    return {
        "spec": spec,
        "params": sum(p.numel() for p in model.parameters()),
        "before": before,
        "after": after,
        "own": own,
        "own_error": own_error,
        "error": error,
        "seconds": round(seconds, 3),
        "merged": len(report.merged),
        "left": _left(deploy, built.inputs, report),
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
    edited = {path for planned in made.edits for path in planned.edit.touched}
    inside = {p.edit.path for p in made.edits if p.name}
    moved = []
    for name, tensor in _tensors(deploy).items():
        owner = name.rpartition(".")[0]
        same = name in kept and _same(kept[name], tensor)
        mine = owner in edited - inside or any(owner == f"{p}.{n}".lstrip(".") for p, n in _merged(made))
        if not same and not mine:
            moved.append(name)
    return [f"changed outside the edits: {', '.join(moved[:3])}"] if moved else []


def _merged(made: Any) -> set[tuple[str, str]]:
    return {(p.edit.path, p.name) for p in made.edits if p.name}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _left(deploy: nn.Module, inputs: Any, report: Any) -> dict[str, Any]:
    """Batch norms that still run, by the reason; those beside a convolution or linear layer without one, by name."""
    seen: dict[str, Any] = {}
    results: dict[int, str] = {}  # tensors that a convolution or linear layer, or a batch norm, just returned
    alive: list[Any] = []
    linear = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    readers: dict[str, set[str]] = {}

    def note(path: str, module: nn.Module) -> Any:
        def hook(_: Any, args: Any, out: Any) -> None:
            x = args[0] if args else None
            if isinstance(module, _BatchNorm):
                seen.setdefault(path, results.get(id(x), "") == "linear")
                results[id(out)] = path if type(module).__module__.startswith("torch.nn") else ""
            else:
                norm = results.get(id(x), "linear")
                if norm not in ("linear", ""):
                    seen[norm] = True
                    readers.setdefault(norm, set()).add(path)
                results[id(out)] = "linear"
            alive.extend((x, out))

        return hook

    hooked = [(n, m) for n, m in deploy.named_modules() if isinstance(m, (_BatchNorm, *linear))]
    handles = [m.register_forward_hook(note(n, m)) for n, m in hooked]
    run(deploy, inputs)
    for handle in handles:
        handle.remove()
    codes: Counter[str] = Counter()
    silent = []
    for path, beside in seen.items():
        places = (path, *readers.get(path, ()))
        reasons = [r for r in (*report.refused, *report.untraceable) if any(_about(r.where, p) for p in places)]
        codes[reasons[0].code if reasons else "beside nothing linear" if not beside else "no reason"] += 1
        if beside and not reasons:
            silent.append(path)
    return {"codes": dict(codes), "silent": silent[:5]}


def _about(where: str, path: str) -> bool:
    """Whether a refusal at `where` is about the norm at `path`, or about the forward that calls it."""
    return where in (path, path.rpartition(".")[0] or "(root)") or where.startswith(f"{path}.")


def _own(built: Built) -> tuple[dict[str, int] | None, str]:
    """The kernels left by the package's own converter, in float32 as it wants it; or what stopped it."""
    if built.own is None:
        return None, ""
    try:
        converted = built.own(copy.deepcopy(built.fresh()))
        return run(converted.float().eval(), _floats(built.inputs))[1], ""
    except Exception as error:  # foreign code; that it fails is worth a note in the row
        return None, f"{type(error).__name__}: {error}".split("\n")[0][:120]


def _floats(inputs: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )
