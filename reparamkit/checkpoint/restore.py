"""Models from files: training weights into a model, deploy weights into the deploy form of a fresh one."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reparamkit.checkpoint.file import Stored, read
from reparamkit.checkpoint.names import upstream_names
from reparamkit.checkpoint.provenance import (
    example_in,
    has_upstream_names,
    recipe_in,
    timed_in,
    wants_channels_last,
)
from reparamkit.errors import CheckpointError
from reparamkit.loading import build_or_default, default_registry
from reparamkit.paths import below
from reparamkit.pipeline import RecipeLike, apply
from reparamkit.recipe import load_recipe

if TYPE_CHECKING:
    from reparamkit.decide.policy import Policy
    from reparamkit.pipeline import Plugins
    from reparamkit.recipe import Recipe

_SHOWN = 5


def load_weights(model: nn.Module, file: str | os.PathLike[str]) -> None:
    """Load a checkpoint into `model` itself; every key must fit.

    Args:
        model: takes the weights.
        file: safetensors, or what `torch.save` wrote (read with ``weights_only=True``).

    Raises:
        CheckpointError: RK910 the file cannot be read, RK911 its keys or shapes are not the model's.
    """
    _fill(model, read(Path(file)).tensors, str(file))


def load(
    model: nn.Module,
    file: str | os.PathLike[str],
    *,
    recipe: RecipeLike = None,
    plugins: Plugins = None,
    example_inputs: Any = None,
) -> nn.Module:
    """The deploy form of `model` with the weights of a deploy checkpoint; no training weights are needed.

    The recipe in the checkpoint is applied to a copy of `model`. What merges may depend on numbers (a shift of zero
    passes a border), so the copy first gets the numbers that the checkpoint still has and random ones elsewhere:
    only what is true of all numbers is merged, as it was when the checkpoint was made.

    Args:
        model: a fresh model in eval mode, not yet converted; not touched.
        file: written by `save` or ``reparamkit apply -o``.
        recipe: for a file that does not say which recipe made it.
        plugins: as for `apply`.
        example_inputs: as for `apply`; by default random ones like those of the conversion, as the file says.

    Returns:
        The deploy model, in the dtype and on the device of `model`.

    Raises:
        CheckpointError: RK910 the file cannot be read or names no recipe, RK911 it does not fit the deploy form.
        ModelError, RecipeError, PluginError: as for `apply`.
    """
    stored = read(Path(file))
    spec = recipe if recipe is not None else recipe_in(stored)
    if spec is None:
        raise CheckpointError("RK910", f"{file}: it does not say which recipe made it; pass recipe=")
    templates = (
        load_recipe(spec, folders=default_registry().recipe_folders).deploy_names
        if has_upstream_names(stored.metadata)
        else {}
    )
    example = example_inputs if example_inputs is not None else example_in(stored, model)
    policy = _decided_policy(spec, stored, plugins)
    options = {"plugins": plugins, "example_inputs": example, "policy": policy}
    deploy = _deploy_form(model, stored.tensors, spec, templates, options)
    _fill(deploy, _ours(deploy, stored.tensors, templates), str(file))
    if wants_channels_last(stored.metadata):
        deploy.to(memory_format=torch.channels_last)
    return deploy


def convert_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    recipe: RecipeLike = None,
    *,
    policy: str | Policy | None = None,
    plugins: Plugins = None,
    example_inputs: Any = None,
    like: str | os.PathLike[str] | None = None,
) -> dict[str, Tensor]:
    """The deploy form of training weights; the model is not run, unless there are example inputs.

    For what was stored before a conversion: averaged weights (EMA), teachers, older epochs.

    Args:
        model: gives the architecture, in eval mode; not touched, and its own weights do not matter.
        state_dict: training weights for it.
        recipe: as for `apply`.
        policy: as for `apply`.
        plugins: as for `apply`.
        example_inputs: as for `apply`; the model is run on them once, to learn the number of axes.
        like: a deploy checkpoint; its recipe, and inputs like those of its conversion, are used unless others are
            given.

    Returns:
        The weights of the deploy model, for ``load_state_dict(..., strict=True)``.

    Raises:
        CheckpointError: RK911 when `state_dict` does not fit `model`, RK910 when `like` cannot be read.
        ModelError, RecipeError, PluginError, VerificationError: as for `apply`.
    """
    filled = copy.deepcopy(model)
    _fill(filled, state_dict, "the state dict")
    if like is not None:
        stored = read(Path(like))
        recipe = recipe if recipe is not None else recipe_in(stored)
        example_inputs = example_inputs if example_inputs is not None else example_in(stored, model)
        policy = policy or _decided_policy(recipe, stored, plugins)
    options: dict[str, Any] = {"policy": policy, "plugins": plugins, "example_inputs": example_inputs}
    deploy: nn.Module = apply(filled, recipe, inplace=True, **options)
    return deploy.state_dict()


def _decided_policy(recipe: RecipeLike, stored: Stored, plugins: Plugins) -> Policy | None:
    """The recipe's policy with what was timed when the checkpoint was made: another machine would decide otherwise."""
    answers = timed_in(stored)
    if answers is None:
        return None
    registry = build_or_default(plugins)
    return registry.policy(load_recipe(recipe, folders=registry.recipe_folders).policy).with_answers(answers)


def _deploy_form(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    recipe: RecipeLike | Recipe,
    templates: Mapping[str, str],
    options: Mapping[str, Any],
) -> nn.Module:
    deploy, negative = model, tuple[str, ...]()
    # Behind a ReLU only a positive scale goes to the front, so where the first try does not fit, the sign is another;
    # and a model may have been stored with the very numbers it starts with.
    for randomised in (True, True, False):
        fresh = copy.deepcopy(model)
        _prepare(fresh, tensors, randomised, negative)
        deploy = apply(fresh, recipe, inplace=True, verify=False, **options)
        made, stored = _shapes(deploy.state_dict()), _shapes(_ours(deploy, tensors, templates))
        if made == stored:
            break
        negative = tuple(key for key in stored if key not in made)
    return deploy


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items() if isinstance(tensor, Tensor)}


def _ours(model: nn.Module, tensors: Mapping[str, Tensor], templates: Mapping[str, str]) -> Mapping[str, Tensor]:
    """Tensors that have upstream's keys, by the keys of `model`."""
    if not templates:
        return tensors
    back = {theirs: ours for ours, theirs in upstream_names(model.state_dict(), templates).items()}
    return {back.get(key, key): tensor for key, tensor in tensors.items()}


def _prepare(model: nn.Module, tensors: Mapping[str, Tensor], randomised: bool, negative: Sequence[str]) -> None:
    """Give `model` the numbers that are known, and arbitrary ones where they are not.

    Args:
        model: gets the numbers.
        tensors: those that are known.
        randomised: whether the others get new numbers.
        negative: keys that were missing; what stood in the modules around them gets numbers below zero.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in _weights(model):
            known = tensors.get(key)
            if known is not None and known.shape == tensor.shape:
                tensor.copy_(known)
            elif randomised and tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator) + 0.5  # positive: it may be a variance
                tensor.copy_(-drawn if _is_negative(key, tensor, negative) else drawn)


def _is_negative(key: str, tensor: Tensor, missing: Sequence[str]) -> bool:
    owner = key.rpartition(".")[0]
    return bool(owner) and isinstance(tensor, nn.Parameter) and any(below(other, owner) for other in missing)


def _weights(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters, and the statistics of norms; other buffers may be tables and masks, which are no weights."""
    yield from model.named_parameters()
    for path, module in model.named_modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            yield from module.named_buffers(path, recurse=False)


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    problems = {
        "missing": [key for key in own if key not in tensors],
        "unexpected": [key for key in tensors if key not in own],
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in tensors and tensors[key].shape != own[key].shape
        ],
        "of another kind": [
            f"{key} ({kind})"
            for key in own
            if key in tensors and (kind := _strange(tensors[key], own[key])) is not None
        ],
    }
    told = [f"{what}: {_few(keys)}" for what, keys in problems.items() if keys]
    if told:
        raise CheckpointError("RK911", f"{name}: {'; '.join(told)}")
    try:
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError("RK911", f"{name}: {error}") from error


def _strange(tensor: Tensor, own: Tensor) -> str | None:
    """What a stored tensor is, when its numbers cannot be copied as they are: copying would end half done."""
    if tensor.is_meta and not own.is_meta:
        return "meta"
    if tensor.layout is not own.layout:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_quantized != own.is_quantized or tensor.is_complex() != own.is_complex():
        return str(tensor.dtype).removeprefix("torch.")
    return None


def _few(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
