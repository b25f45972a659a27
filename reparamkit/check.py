"""Is this something that can be converted? Asked before anything is looked at closely."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from reparamkit.errors import ModelError, RecipeError
from reparamkit.paths import joined, module_at, modules_under

if TYPE_CHECKING:
    from reparamkit.plan import Plan

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FRAMES_OF_OURS = 60  # more than any of our functions stands above those of torch that it calls
_NORMS = nn.modules.batchnorm._BatchNorm
_GATHER = (
    "gather the full state dict (get_model_state_dict with full_state_dict=True, from torch.distributed.checkpoint"
    ".state_dict), load it into a model that is not sharded, and convert that"
)
# By class name: importing torch.distributed for a model that never heard of it would cost time.
_WRAPPERS = {
    "DistributedDataParallel": "pass model.module, on one process",
    "FullyShardedDataParallel": _GATHER,
}


def checked_model(model: object) -> None:
    """Raise `ModelError` unless `model` is a module in eval mode with weights of its own.

    Raises:
        ModelError: what `checked_tree` raises, and RK101 training mode (lists the modules).
    """
    training = [(path, module) for path, module in modules_under(checked_tree(model)) if module.training]
    if training:
        raise ModelError("RK101", f"{_training(training)}; call model.eval() first")


def checked_tree(model: object) -> nn.Module:
    """Raise `ModelError` unless `model` is a module, of any mode, with all its weights here.

    Raises:
        ModelError: RK601 TorchScript, RK602 exported program, RK603 not a module, RK605 wrapped for distributed
            training, RK606 nested too deeply, RK507 sharded weights, RK102 lazy parameters, RK505 meta weights.
    """
    if isinstance(model, torch.export.ExportedProgram) or _is_exported(model):
        raise ModelError("RK602", "convert the module it was exported from, then export again")
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ModelError("RK601", "convert the Python module it was made from, then script again")
    if not isinstance(model, nn.Module):
        raise ModelError("RK603", f"expected an nn.Module, got {_what_else(model)}")
    if _only_wraps(model):
        raise ModelError("RK603", f"expected the network itself, got {type(model).__name__}; pass its .model")
    _nested_within_limits(model)
    lazy, meta, sharded = [], [], []
    for path, module in modules_under(model):
        kind = next((c.__name__ for c in type(module).__mro__ if c.__name__ in _WRAPPERS), None)
        if kind is not None:
            raise ModelError("RK605", f"{path or '(root)'} is a {kind}; {_WRAPPERS[kind]}")
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            where = joined(path, name)
            if nn.parameter.is_lazy(tensor):
                lazy.append(where)
            elif "DTensor" in type(tensor).__name__:
                sharded.append(where)
            elif tensor.is_meta:
                meta.append(where)
    if lazy:
        raise ModelError("RK102", f"{_few(lazy)}; run one batch through the model first")
    if meta:
        raise ModelError("RK505", f"{_few(meta)} on the meta device; {_how_to_load(model)}")
    if sharded:
        raise ModelError("RK507", f"{_few(sharded)}; {_GATHER}")
    return model


def _nested_within_limits(model: nn.Module) -> None:
    """RK606 where torch's own functions, which call themselves once a level, would end in a `RecursionError`."""
    deepest = max((path for path, _ in modules_under(model)), key=lambda path: path.count("."))
    levels, limit = deepest.count(".") + 1, sys.getrecursionlimit()
    most = limit - _frames_in_use() - _FRAMES_OF_OURS
    if levels > most:
        where = f"{deepest[:40]}..." if len(deepest) > 40 else deepest
        text = f"expected at most {most} levels (Python's recursion limit is {limit}), got {levels} at {where}"
        raise ModelError("RK606", f"{text}; call sys.setrecursionlimit({limit + 2 * levels}) first, or nest it less")


def _frames_in_use() -> int:
    frame, count = sys._getframe(), 0
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


def _is_exported(model: object) -> bool:
    """Whether it is what `ExportedProgram.module` or `torch.export.unflatten` made: calls without modules."""
    unflattened = type(model).__module__ == "torch.export.unflatten"
    return unflattened or (isinstance(model, torch.fx.GraphModule) and "eval" in model.__dict__)


def _what_else(model: object) -> str:
    """What was given instead of a module, and what to do about it."""
    kind = type(model).__name__
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f"the class {model.__name__}; pass an instance of it"
    if isinstance(model, str):
        return "a name or path; build the model, load its weights, and pass it"
    if isinstance(model, dict) and any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(model)):
        return f"a state dict ({kind}); load it into a model with load_state_dict, and pass that"
    if isinstance(getattr(model, "model", None), nn.Module):
        return f"{kind}, which holds one; pass its .model"
    if isinstance(getattr(model, "__self__", None), nn.Module):
        return f"a {kind} of one; pass the module"
    return kind


def _only_wraps(model: nn.Module) -> bool:
    """Whether it has no forward and its `train` is no mode but a training (as ultralytics' YOLO)."""
    if type(model).forward is not nn.Module.forward or not isinstance(getattr(model, "model", None), nn.Module):
        return False
    return type(model).train is not nn.Module.train and "mode" not in inspect.signature(type(model).train).parameters


def _how_to_load(model: nn.Module) -> str:
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "accelerate has offloaded them: load the model without device_map, then convert it"
    return "load the weights first"


def _training(found: list[tuple[str, nn.Module]]) -> str:
    """The modules whose behaviour depends on the mode first: they are the reason."""
    depends = [(p, m) for p, m in found if isinstance(m, (_NORMS, nn.modules.dropout._DropoutNd))]
    rest = [(p, m) for p, m in found if (p, m) not in depends] if len(found) < 1000 else []
    names = [f"{p or '(root)'} ({type(m).__name__})" for p, m in (*depends, *rest)]
    return f"{len(found)} modules are in training mode: {_few(names)}"


def _few(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def checked_example(example_inputs: Any) -> None:
    """Raise `ModelError` RK603 for an example that is no input at all."""
    if example_inputs is not None and not isinstance(example_inputs, (torch.Tensor, tuple, list, dict)):
        raise ModelError(
            "RK603",
            f"example_inputs: expected a tensor, a tuple of arguments or a dict, got {type(example_inputs).__name__}",
        )


def expectations(plan: Plan, converted: nn.Module) -> None:
    """Check what the recipe expects of each matched block.

    Raises:
        RecipeError: RK707 with the block, the count and the limit.
    """
    for scope in plan.scopes:
        expect = scope.block.expect
        if expect is None or module_at(converted, scope.path) is None:
            continue
        inside = list(converted.get_submodule(scope.path).modules())
        counts = (
            # One whose forward was written anew has given its weight to the convolution it calls.
            ("convs", sum(isinstance(m, _CONVS) and m.weight is not None for m in inside), expect.convs),
            ("batch_norms", sum(isinstance(m, _NORMS) for m in inside), expect.batch_norms),
        )
        for name, found, limit in counts:
            if limit is not None and found > limit:
                why = [str(r) for r in plan.refusals if r.where == scope.path or r.where.startswith(f"{scope.path}.")]
                because = f"; {'; '.join(why[:3])}" if why else ""
                raise RecipeError(
                    "RK707", f"{scope.path or '(root)'}: {found} {name} left, expected at most {limit}{because}"
                )
