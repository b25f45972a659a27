"""core/norm_affine: the scale and shift of a layer norm go into the linear layer behind it. Opt-in.

Formula (folding for rotation or quantisation, Ashkboos et al., SliceGPT, ICLR 2024, §3): with ``n(x)`` the normalised
input, ``W (g n(x) + b) + c = (W g) n(x) + (W b + c)``. The same for `nn.RMSNorm`, and for `nn.GroupNorm` before a
convolution.

Conditions: one normalised axis; one reader, which takes the affine as `core/scale` says. It saves a few products and
changes what is stored in two layers, so a recipe has to ask for it by name.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from reparamkit.answers import Context, Tail
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.usable import unusable

RULE = "core/norm_affine"


def lift_layer_norm(module: Any, context: Context) -> Tail | Refusal:
    """`nn.LayerNorm`, `nn.RMSNorm`."""
    if len(module.normalized_shape) != 1:
        return Refusal("RK310", f"normalises {len(module.normalized_shape)} axes at once")
    return _tail(module, 0)


def lift_group_norm(module: nn.GroupNorm, context: Context) -> Tail | Refusal:
    """`nn.GroupNorm`."""
    if context.rank is None:
        return Refusal("RK203", "which axes are spatial depends on it; pass example_inputs")
    return _tail(module, context.rank - 2)


def _tail(module: Any, nd: int) -> Tail | Refusal:
    weight, bias = module.weight, getattr(module, "bias", None)
    if weight is None:
        return Refusal("RK331", "it has no scale")
    if is_parametrized(module):
        return Refusal("RK308", "its scale or shift is computed, the norm without them would be of another class")
    refusal = unusable(weight, bias)
    if refusal is not None:
        return refusal
    scale = weight.detach().double()
    shift = None if bias is None else bias.detach().double()

    def affine(x: Tensor) -> Any:
        shape = (-1, *[1] * nd)
        scaled = x * scale.view(shape)
        return scaled if shift is None else scaled + shift.view(shape)

    return Tail(Scale(scale, shift, nd), lambda: _plain(module), affine)


def _plain(module: Any) -> nn.Module:
    """The same norm without its scale and shift."""
    made = copy.copy(module)
    made._parameters = dict.fromkeys(module._parameters)
    for flag in ("elementwise_affine", "affine"):
        if hasattr(made, flag):
            setattr(made, flag, False)
    return made  # type: ignore[no-any-return]


_LAYER = (nn.LayerNorm, nn.RMSNorm, "timm.layers.LayerNorm")

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_layer_norm, subclasses=True, opt_in=True) for target in _LAYER),
    Lift(RULE, nn.GroupNorm, lift_group_norm, subclasses=True, opt_in=True),
)
