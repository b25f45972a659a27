"""reparamkit: structural re-parameterization for any PyTorch model.

    recipe ─┐
    model ──┴► trace ─► lift ─► merge ─► decide ─► lower ─► verify ─► splice ─► report
               graph    op or   candidate  chosen    nn.Module  float64  the tree   what, why,
                        refusal            regions              proof               how much

`apply` turns multi-branch blocks into single-path ones; `plan` says what it would do; `verify` compares two
models; `expand` gives plain layers the branches that `apply` takes away, and `reparamkit.nn` has the blocks as
classes. Rules, recipes and plugins: see `reparamkit.hookspecs`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from reparamkit.version import __version__

if TYPE_CHECKING:
    from reparamkit.answers import Split, Sum, Through
    from reparamkit.bench import Bench, bench
    from reparamkit.block import Block
    from reparamkit.branch import BranchOp
    from reparamkit.checkpoint import convert_state_dict, load, load_weights, save, upstream_state_dict
    from reparamkit.decide.policy import Policy, measured
    from reparamkit.errors import (
        CheckpointError,
        ExportError,
        MissingExtraError,
        ModelError,
        OutputError,
        PluginError,
        RecipeError,
        Refusal,
        ReparamError,
        VerificationError,
    )
    from reparamkit.expand import Expansion, expand
    from reparamkit.export import export_onnx, export_program
    from reparamkit.hookspecs import hookimpl
    from reparamkit.operators import Conv, ConvTranspose, Scale, Stencil, conv, stencil
    from reparamkit.pipeline import apply, plan
    from reparamkit.plan import Plan
    from reparamkit.recipe import Recipe, load_recipe
    from reparamkit.report import Report
    from reparamkit.rule import Lift, Rewritten, Transform, lifts
    from reparamkit.verify import verify


__all__ = [
    "Bench",
    "Block",
    "BranchOp",
    "CheckpointError",
    "Conv",
    "ConvTranspose",
    "Expansion",
    "ExportError",
    "Lift",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Plan",
    "PluginError",
    "Policy",
    "Recipe",
    "RecipeError",
    "Refusal",
    "ReparamError",
    "Report",
    "Rewritten",
    "Scale",
    "Split",
    "Stencil",
    "Sum",
    "Through",
    "Transform",
    "VerificationError",
    "__version__",
    "apply",
    "bench",
    "conv",
    "convert_state_dict",
    "expand",
    "export_onnx",
    "export_program",
    "hookimpl",
    "lifts",
    "load",
    "load_recipe",
    "load_weights",
    "measured",
    "plan",
    "save",
    "stencil",
    "upstream_state_dict",
    "verify",
]

# Where each public name lives. It is imported at its first use (PEP 562): torch takes seconds to import, and
# neither `reparamkit --help` nor a plugin's entry point has to wait for it.
_HOME = {
    name: module
    for module, names in {
        "answers": "Split Sum Through",
        "bench": "Bench bench",
        "branch": "BranchOp",
        "block": "Block",
        "checkpoint": "convert_state_dict load load_weights save upstream_state_dict",
        "errors": "CheckpointError ExportError MissingExtraError ModelError OutputError PluginError RecipeError "
        "Refusal ReparamError VerificationError",
        "expand": "Expansion expand",
        "export": "export_onnx export_program",
        "hookspecs": "hookimpl",
        "operators": "Conv ConvTranspose Scale Stencil conv stencil",
        "pipeline": "apply plan",
        "plan": "Plan",
        "decide.policy": "Policy measured",
        "recipe": "Recipe load_recipe",
        "report": "Report",
        "rule": "Lift Rewritten Transform lifts",
        "verify": "verify",
    }.items()
    for name in names.split()
}


# Modules that are used as such: reparamkit.nn.RepVGGBlock.
_MODULES = ("nn",)


class _Package(ModuleType):
    """`plan` and `verify` are functions here and modules below: importing the module must not hide the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # a type checker would take it for a promise that every name exists

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
