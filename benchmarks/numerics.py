"""How exact merged weights are: reparamkit and timm's converter against the same arithmetic in float64.

A fresh copy of each model in each dtype is converted by both; truth is timm's converter on those weights in float64.
Models whose float64 twin timm cannot make (RepViT becomes float32), or leaves batch norms in, are not in the first
table.
The second has them all: it asks what the rounded weights, and nothing else, do to the output, for several draws of the
weights. Upstream leaves norms in some models, which costs them no rounding there; with `reparamkit` behind it they are
folded as well.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from deployed.models import MODELS as ALL
from deployed.models import author, build, images
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import reparamkit

MODELS = {"repvgg_a0": "repvgg", "repvgg_b1": "repvgg", "mobileone_s0": "mobileone", "mobileone_s1": "mobileone"}
NO_CONVERTER = ("resnet50", "efficientnet_b0")
DRAWS = 5
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def rounded(model: nn.Module, truth: dict[str, Tensor]) -> tuple[float, float]:
    """Percent of the parameters that are the closest number of their dtype, and the root mean square error."""
    right = total = 0
    square = 0.0
    for name, parameter in model.named_parameters():
        got, exact = parameter.detach(), truth[name]
        right += int((got == exact.to(got.dtype)).sum())
        total += got.numel()
        square += float((got.double() - exact).square().sum())
    return 100 * right / total, (square / total) ** 0.5


def row(name: str, recipe: str, dtype: torch.dtype) -> str:
    model = build(name).to(dtype)
    truth = {k: p.detach() for k, p in author(copy.deepcopy(model).double()).named_parameters()}
    theirs, ours = rounded(author(model), truth), rounded(reparamkit.apply(model, recipe), truth)
    by_float32 = rounded(author(copy.deepcopy(model).float()).to(dtype), truth)
    cells = [f"{percent:.2f} %, {error:.2e}" for percent, error in (theirs, by_float32, ours)]
    return f"| {name} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |"


def output(model: nn.Module, x: Tensor) -> Tensor:
    """What its weights give, computed in float64."""
    with torch.no_grad():
        made = copy.deepcopy(model).double()(x)
    first: Tensor = made[0] if isinstance(made, (tuple, list)) else made
    return first


def cast(model: nn.Module) -> nn.Module:
    """Upstream in float32, then cast."""
    dtype = next(model.parameters()).dtype
    return author(copy.deepcopy(model).float()).to(dtype)


def cast_then_rest(model: nn.Module) -> nn.Module:
    """The same, and then the norms that it left."""
    return reparamkit.apply(cast(model).eval())


CONVERTERS: tuple[Callable[[nn.Module], nn.Module], ...] = (author, cast, cast_then_rest, reparamkit.apply)


def output_row(name: str, dtype: torch.dtype) -> str:
    """Median and range, over `DRAWS` models, of what each converter's weights do to the output."""
    found: list[list[float]] = [[] for _ in CONVERTERS]
    x = images(name)[..., :128, :128].double()
    for seed in range(DRAWS):
        model = build(name, seed).to(dtype)
        truth = output(model, x)
        for convert, errors in zip(CONVERTERS, found, strict=True):
            errors.append(float((output(convert(model), x) - truth).norm() / truth.norm()))
    cells = [f"{statistics.median(errors):.1e} [{min(errors):.1e}, {max(errors):.1e}]" for errors in found]
    left = sum(isinstance(m, _BatchNorm) for m in author(build(name)).modules())
    return f"| {name} | {str(dtype).removeprefix('torch.')} | {left} | {' | '.join(cells)} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("## How exact merged weights are\n")
    print(
        "Written by `python benchmarks/numerics.py`: weights that are the closest number of their dtype to the float64"
    )
    print(
        "result, and the root mean square error. timm folds in the model's dtype; the next column folds in float32 and"
    )
    print("casts.\n")
    print("| model | dtype | timm | timm in float32, then cast | reparamkit |\n|---|---|---|---|---|")
    for name, recipe in MODELS.items():
        for dtype in DTYPES:
            print(row(name, recipe, dtype), flush=True)
    print("\nWhat that does to the output: the relative error (root mean square) of the converted model's weights,")
    print("computed in float64, against the original's; median of five draws of the weights, [least, most].\n")
    print("| model | dtype | norms upstream leaves | upstream | in float32, then cast | then the rest | reparamkit |")
    print("|---|---|---|---|---|---|---|")
    for name in ALL:
        if name not in NO_CONVERTER:
            for dtype in DTYPES:
                print(output_row(name, dtype), flush=True)


if __name__ == "__main__":
    main()
