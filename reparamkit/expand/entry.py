"""entry: `expand`, the stages in order.

    recipe -> which layers -> place the branches -> build -> preserve the function -> splice -> report

Everything is built and proven before the model (or its copy) changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import nn

from reparamkit.check import checked_example, checked_tree
from reparamkit.edits.splice import Journal, Steps, copied, splice
from reparamkit.errors import RecipeError, Refusal
from reparamkit.expand.block import Expanded
from reparamkit.expand.build import build, can_be_online
from reparamkit.expand.candidates import layers_in
from reparamkit.expand.carrier import with_bias
from reparamkit.expand.fold import folded
from reparamkit.expand.layer import Layer, layer_of
from reparamkit.expand.place import Legal, place_all
from reparamkit.expand.placed import Branch, Placed
from reparamkit.expand.preserve import preserve
from reparamkit.expand.read import branches_of
from reparamkit.expand.report import ExpandedLayer, Expansion
from reparamkit.expand.statistics import settle
from reparamkit.loading import build_or_default
from reparamkit.pipeline import Plugins, RecipeLike
from reparamkit.recipe import Recipe, load_recipe
from reparamkit.registry import Registry
from reparamkit.standin import StandIn
from reparamkit.survey import Survey, survey

Init = Literal["keep", "scratch"]


@dataclass(frozen=True)
class _Job:
    """What is the same for every layer."""

    recipe: Recipe
    registry: Registry
    branches: dict[int, tuple[Branch, ...]]  # by section
    init: Init | None
    online: bool


@overload
def expand(
    model: nn.Module,
    recipe: RecipeLike,
    *,
    inplace: bool = ...,
    init: Init | None = ...,
    online: bool = ...,
    plugins: Plugins = ...,
    example_inputs: Any = ...,
    return_report: Literal[False] = ...,
) -> nn.Module: ...
@overload
def expand(
    model: nn.Module,
    recipe: RecipeLike,
    *,
    inplace: bool = ...,
    init: Init | None = ...,
    online: bool = ...,
    plugins: Plugins = ...,
    example_inputs: Any = ...,
    return_report: Literal[True],
) -> tuple[nn.Module, Expansion]: ...
def expand(
    model: nn.Module,
    recipe: RecipeLike,
    *,
    inplace: bool = False,
    init: Init | None = None,
    online: bool = False,
    plugins: Plugins = None,
    example_inputs: Any = None,
    return_report: bool = False,
) -> nn.Module | tuple[nn.Module, Expansion]:
    """Give the plain layers of `model` the branches that a recipe says; `apply` takes them away exactly.

    The result trains like any other model. In eval mode it computes what `model` computes, unless the branches are
    initialised from scratch.

    Args:
        model: a model in any mode; every layer keeps its mode.
        recipe: with an ``expand`` section: a file, the name of a shipped recipe, YAML text, a mapping, a `Recipe`.
        inplace: change `model` itself; otherwise it is not touched and an expanded copy is returned.
        init: overrides the recipe's: "keep" what the model computes, or "scratch" for initial numbers that know nothing
            of it. New numbers are drawn from torch's global generator.
        online: train through the merged kernels, one convolution a step, where branches hold no batch norm.
        plugins: modules with hooks, beside the installed plugins.
        example_inputs: a batch of real data: a tensor, a tuple of arguments or a dict. The new batch norms take its
            statistics, so that the function is nearly kept in training mode as well.
        return_report: also return the `Expansion`.

    Returns:
        The expanded model, and the report when asked for.

    Raises:
        ModelError: the model cannot be expanded as it is (TorchScript, wrapped, sharded, meta weights, ...).
        RecipeError: the recipe is wrong, says nothing about expanding, matches nothing, or its branches do not
            collapse.
        PluginError: plugins contradict each other. In every case `model` is as it was.
    """
    checked_tree(model)
    checked_example(example_inputs)
    registry = build_or_default(plugins)
    loaded = load_recipe(recipe, folders=registry.recipe_folders, ops=registry.branch_ops)
    if not loaded.expand:
        raise RecipeError("RK706", f"recipe {loaded.name!r} has no 'expand' section")
    sections = {i: branches_of(section, registry.branch_ops) for i, section in enumerate(loaded.expand)}
    job = _Job(loaded, registry, sections, init, online)
    with torch.inference_mode(False):
        found = survey(model, registry)
        with torch.device("cpu"):  # whatever the default device is, which only the model's own forward may need
            blocks, report = _blocks(model, found, job)
        steps = Steps(modules=dict(blocks), also={path: found.other_names(path) for path in blocks})
        target = _expanded(model, blocks, steps, inplace, example_inputs)
        return (target, report) if return_report else target


def _expanded(
    model: nn.Module,
    blocks: dict[str, Expanded],
    steps: Steps,
    inplace: bool,
    example_inputs: Any,
) -> nn.Module:
    journal = Journal()
    try:
        if "" in blocks:  # the model is the layer itself: nothing holds it in which it could be exchanged
            target: nn.Module = blocks[""]
        else:
            target = model if inplace else copied(model, steps)
            splice(target, steps, journal)
        if example_inputs is not None:
            settle(target, list(blocks.values()), example_inputs)
        return target
    except BaseException:
        journal.rollback()
        raise


def _blocks(model: nn.Module, found: Survey, job: _Job) -> tuple[dict[str, Expanded], Expansion]:
    """A block for every layer that the recipe means and that can have branches."""
    blocks: dict[str, Expanded] = {}
    done: list[ExpandedLayer] = []
    refused: list[Refusal] = []
    matched: set[int] = set()
    for path, module, refusal in layers_in(found):
        layer = layer_of(module)
        at = next((i for i, s in enumerate(job.recipe.expand) if s.match.fits(path, layer)), None)
        if at is None:
            continue
        matched.add(at)
        legal = place_all(job.branches[at], layer)
        made = refusal or _block(module, layer, legal, job, at)
        if isinstance(made, Refusal):
            refused.append(made.at(path))
            continue
        blocks[path] = made
        done.append(_told(path, module, layer, made, legal))
    _check_matched(model, job.recipe, matched)
    return blocks, Expansion(job.recipe.name, tuple(done), tuple(refused))


def _told(path: str, module: nn.Module, layer: Layer, block: Expanded, legal: Legal) -> ExpandedLayer:
    names = tuple(b.name for b in legal.branches)
    return ExpandedLayer(path, str(layer), names, legal.left_out, _trained(module), _trained(block))


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _check_matched(model: nn.Module, recipe: Recipe, matched: set[int]) -> None:
    if not matched and any(isinstance(m, StandIn) for m in model.modules()):
        raise RecipeError("RK706", f"recipe {recipe.name!r}: the model is expanded already")
    for index, section in enumerate(recipe.expand):
        if index not in matched and not section.optional:
            raise RecipeError("RK706", f"recipe {recipe.name!r}, expand {index}: {section.match} matches no layer")
    if not matched:
        meant = "; ".join(str(s.match) for s in recipe.expand)
        raise RecipeError("RK706", f"recipe {recipe.name!r}: none of its expand sections matches a layer ({meant})")


def _block(module: nn.Module, layer: Layer, legal: Legal, job: _Job, section: int) -> Expanded | Refusal:
    """The expanded form of one layer, its numbers settled."""
    if len(legal.branches) == 1 and len(legal.branches[0].steps) == 1:
        return Refusal("RK341", "no branch beside the layer itself has a place here")
    if not legal.branches:
        return legal.left_out[0]
    branches = with_bias(legal.branches, layer)
    if job.online and (refusal := can_be_online(branches)) is not None:
        raise RecipeError(refusal.code, refusal.reason)
    block = build(branches, layer, job.online).double().eval().to(module.weight.device)  # type: ignore[arg-type]
    init = job.init or job.recipe.expand[section].init
    with torch.no_grad():
        carrier = _settled(block, branches, module, layer, job, init)
    return carrier if isinstance(carrier, Refusal) else _like(block, carrier, module)


def _settled(
    block: Expanded, branches: tuple[Placed, ...], module: Any, layer: Layer, job: _Job, init: Init
) -> nn.Module | Refusal | None:
    """Check that the block is one layer; unless it starts from scratch, the very layer that `module` is."""
    found: Any
    if init == "scratch":
        found = folded(block, layer, job.registry)
    else:
        weight = module.weight.detach().to(torch.float64)
        bias = weight.new_zeros(layer.out_channels) if module.bias is None else module.bias.detach().to(torch.float64)
        found = preserve(block, branches, layer, (weight, bias), job.registry)
    if isinstance(found, Refusal) and found.code != "RK341":
        raise RecipeError("RK710", f"recipe {job.recipe.name!r}, beside a {layer}: {found}")
    return found if isinstance(found, nn.Module | Refusal) else None


def _like(block: Expanded, carrier: nn.Module | None, module: Any) -> Expanded:
    """The block with dtype, mode and memory format of the layer; a frozen layer's own kernel stays frozen."""
    weight = module.weight
    if carrier is not None and not weight.requires_grad:
        carrier.requires_grad_(False)
    block.to(weight.dtype).train(module.training)
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        block.to(memory_format=torch.channels_last)
    return block
