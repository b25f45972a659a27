"""reparamkit: structural re-parameterization for any PyTorch model.

    recipe ─┐
    model ──┴► trace ─► lift ─► merge ─► decide ─► lower ─► verify ─► splice ─► report
               graph    op or   candidate  chosen    nn.Module  float64  the tree   what, why,
                        refusal            regions              proof               how much

`apply` turns multi-branch blocks into single-path ones; `plan` says what it would do; `verify` compares two
models. Rules, recipes and plugins: see `reparamkit.hookspecs`.
"""

from __future__ import annotations

from reparamkit.errors import (
    ModelError,
    PluginError,
    RecipeError,
    Refusal,
    ReparamError,
    VerificationError,
)
from reparamkit.hookspecs import hookimpl
from reparamkit.operators import Conv, ConvTranspose, Scale, Stencil, conv, stencil
from reparamkit.pipeline import apply, plan
from reparamkit.plan import Plan
from reparamkit.policy import Policy
from reparamkit.recipe import Recipe, load_recipe
from reparamkit.report import Report
from reparamkit.rule import Lift, Split, Sum, Through, lifts
from reparamkit.verify import verify

__version__ = "0.1.0"

__all__ = [
    "Conv",
    "ConvTranspose",
    "Lift",
    "ModelError",
    "Plan",
    "PluginError",
    "Policy",
    "Recipe",
    "RecipeError",
    "Refusal",
    "ReparamError",
    "Report",
    "Scale",
    "Split",
    "Stencil",
    "Sum",
    "Through",
    "VerificationError",
    "__version__",
    "apply",
    "conv",
    "hookimpl",
    "lifts",
    "load_recipe",
    "plan",
    "stencil",
    "verify",
]
