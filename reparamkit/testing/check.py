"""What the tests of a rule or a block assert."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.errors import ReparamError
from reparamkit.rule import Lift, Rule
from reparamkit.testing.numbers import randomize
from reparamkit.verify import largest_gap

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_NORMS = nn.modules.batchnorm._BatchNorm
_POINTWISE: tuple[Callable[[int], nn.Module], ...] = (
    lambda c: nn.Linear(c, c),
    lambda c: nn.Conv1d(c, c, 1),
    lambda c: nn.Conv2d(c, c, 1),
    lambda c: nn.Conv3d(c, c, 1),
)


def difference(model: nn.Module, converted: nn.Module, shape: Sequence[int], seed: int = 0) -> float:
    """Largest difference of two float64 models on a random input, relative to the largest output.

    Args:
        model: the original.
        converted: the converted one.
        shape: of the input.
        seed: of a generator of its own.
    """
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        return largest_gap(model(x.clone()), converted(x.clone()))


def check_rule(
    rule: Rule | Sequence[Rule],
    example: Callable[[], nn.Module],
    shape: Sequence[int],
    *,
    seeds: int = 3,
    rtol: float = 1e-9,
) -> None:
    """Assert that a rule says what its layer computes, and that reparamkit merges the layer by it.

    The example gets random weights and stands behind a pointwise convolution (a linear layer for rows). Both must
    become one layer, through the rule, and compute the same at several sizes in float64. Looking must not change
    the layer.

    Args:
        rule: a declaration, or several of one plugin.
        example: makes a module of the kind the rule is about; where the rule is about a function, one that calls it.
        shape: of its input, ``[batch, channels, ...]``.
        seeds: how many sets of weights are tried.
        rtol: relative error allowed.

    Raises:
        AssertionError: what is wrong, with numbers.
    """
    rules = [rule] if isinstance(rule, Rule) else list(rule)
    for one in rules:
        assert one.rule.count("/") == 1, f"rule id {one.rule!r}: expected 'plugin/name'"
    for seed in range(seeds):
        module = randomize(example(), seed).double()
        for one in rules:
            _looks_only(one, module)
        front = randomize(_POINTWISE[len(shape) - 2](shape[1]), seed + 100).double()
        model = nn.Sequential(front, module).eval()
        _check_merge(model, rules, shape, seed, rtol)


def _check_merge(model: nn.Module, rules: list[Rule], shape: Sequence[int], seed: int, rtol: float) -> None:
    ids = {rule.rule for rule in rules}
    named = ", ".join(sorted(ids))
    x = torch.zeros(tuple(shape), dtype=torch.float64)
    try:
        converted, report = reparamkit.apply(
            model, policy="always", plugins=[_plugin(rules)], example_inputs=x, return_report=True
        )
    except ReparamError as error:
        raise AssertionError(f"{named}: {error}") from error
    used = {rule for merged in report.merged for rule in merged.rules}
    refused = "; ".join(str(r) for r in (*report.refused, *report.untraceable)) or "nothing was refused"
    assert ids & used, f"{named}: no merge used it ({refused})"
    for grown in (0, 1, 4):
        size = [*shape[:2], *(s + grown for s in shape[2:])]
        gap = difference(model, converted, size, seed)
        assert gap <= rtol, f"{named}: relative error {gap:.3g} on {'x'.join(map(str, size))}, weights {seed}"


def _looks_only(rule: Rule, module: nn.Module) -> None:
    if not isinstance(rule, Lift) or not isinstance(rule.target, type) or not isinstance(module, rule.target):
        return
    before = {k: t.clone() for k, t in module.state_dict().items() if isinstance(t, Tensor)}
    random = torch.get_rng_state()
    rule.run(module, _Nowhere())
    same = all(torch.equal(t, before[k]) for k, t in module.state_dict().items() if isinstance(t, Tensor))
    assert same, f"{rule.rule}: it changes the weights of the layer it looks at"
    assert torch.equal(random, torch.get_rng_state()), f"{rule.rule}: it draws random numbers"


class _Nowhere:
    """A place of which nothing is known."""

    rank: int | None = None


def _plugin(rules: list[Rule]) -> Any:
    class Given:
        @staticmethod
        @reparamkit.hookimpl
        def reparamkit_rules() -> list[Rule]:
            return rules

    return Given()


def assert_collapsible(
    block: nn.Module,
    shape: Sequence[int],
    *,
    convs: int = 1,
    batch_norms: int = 0,
    recipe: Any = None,
    plugins: Any = None,
    seeds: int = 2,
    rtol: float = 1e-9,
) -> nn.Module:
    """Assert that a block becomes as few layers as promised, and computes the same.

    Args:
        block: not touched; copies of it get random weights in float64.
        shape: of its input, ``[batch, channels, ...]``.
        convs: convolutions and linear layers that must be left, exactly.
        batch_norms: likewise.
        recipe: as for `reparamkit.apply`.
        plugins: as for `reparamkit.apply`.
        seeds: how many sets of weights are tried.
        rtol: relative error allowed.

    Returns:
        The last converted copy.

    Raises:
        AssertionError: what is left, what was refused and why, or how far the outputs are apart.
    """
    converted = block
    for seed in range(seeds):
        model = randomize(copy.deepcopy(block), seed).double()
        x = torch.zeros(tuple(shape), dtype=torch.float64)
        converted, report = reparamkit.apply(model, recipe, plugins=plugins, example_inputs=x, return_report=True)
        left = (
            sum(isinstance(m, _CONVS) for m in converted.modules()),
            sum(isinstance(m, _NORMS) for m in converted.modules()),
        )
        assert left == (convs, batch_norms), (
            f"{left[0]} convolutions and {left[1]} batch norms left, expected {convs} and {batch_norms}\n{report}"
        )
        for grown in (0, 1, 4):
            size = [*shape[:2], *(s + grown for s in shape[2:])]
            error = difference(model, converted, size, seed)
            assert error <= rtol, f"relative error {error:.3g} on {'x'.join(map(str, size))}, weights {seed}\n{report}"
    return converted
