"""What proofs share: random inputs, and what convolutions read of them. Nothing written to is used again."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.prove.modules import run_module
from reparamkit.prove.samples import Samples

SHAPES = [[1, 3, 4, 5], [2, 3, 5, 4]]
CPU = torch.device("cpu")


def test_one_size_is_drawn_once_and_always_the_same() -> None:
    samples = Samples()
    drawn = samples.inputs(SHAPES, CPU)
    assert samples.inputs(SHAPES, CPU) is drawn
    assert [list(t.shape) for t in drawn] == SHAPES
    for ours, again in zip(drawn, Samples().inputs(SHAPES, CPU), strict=True):
        assert torch.equal(ours, again)
    assert torch.equal(samples.mix(7, CPU), Samples().mix(7, CPU))
    assert float(samples.mix(7, CPU).min()) >= 0.5


def test_what_was_written_to_is_drawn_anew() -> None:
    samples = Samples()
    first = samples.inputs(SHAPES, CPU)
    kept = first[1].clone()
    first[1].zero_()
    assert torch.equal(samples.inputs(SHAPES, CPU)[1], kept)


def test_the_callers_random_state_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    Samples().inputs(SHAPES, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_layers_that_read_one_input_differently_do_not_share() -> None:
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    layers = [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1)),
    ]
    for layer in [*layers, *layers]:
        wide = nn.Module.double(layer)
        assert torch.allclose(run_module(layer, x), wide(x), rtol=0, atol=1e-12)


def test_an_input_that_changes_is_read_again() -> None:
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    conv = nn.Conv2d(4, 6, 3, padding=1).double()
    before = run_module(conv, x)
    x.mul_(2.0)
    assert torch.allclose(run_module(conv, x), F.conv2d(x, conv.weight, conv.bias, padding=1), rtol=0, atol=1e-12)
    assert not torch.allclose(run_module(conv, x), before)
