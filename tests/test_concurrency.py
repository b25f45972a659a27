"""Conversions beside each other and beside other work: nothing in the process is patched, not even for a moment."""

from __future__ import annotations

import builtins
import contextlib
import copy
import multiprocessing
import operator
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import reparamkit
from reparamkit.testing import random_model
from tests.helpers import gap, inputs

SECONDS = 6.0
SHAPE = (1, 4, 8, 9)
WATCHED: tuple[Any, ...] = (
    *(torch, torch.nn, torch.nn.functional, torch.Tensor, torch.autograd, torch.random, torch.overrides, torch.fx),
    *(torch.nn.Module, torch.nn.Sequential, torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Parameter),
    *(fx.Proxy, fx.Tracer, fx.Graph, fx.Node, fx.GraphModule, builtins, operator, copy, threading),
)


def attributes() -> dict[tuple[str, str], int]:
    """The identity of everything the watched modules and classes hold."""
    found = {}
    for owner in WATCHED:
        name = owner.__name__ if isinstance(owner, (ModuleType, type)) else str(owner)
        for key, value in list(vars(owner).items()):
            if not isinstance(value, (int, float, str)):
                found[name, key] = id(value)
    return found


def modes() -> tuple[Any, ...]:
    return (
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        *(torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()),
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
    )


@contextlib.contextmanager
def running(*works: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Each work in a thread of its own, over and over, until the block ends; what they raised."""
    errors: list[BaseException] = []
    ended = threading.Event()

    def loop(work: Callable[[], None]) -> None:
        while not ended.is_set() and not errors:
            try:
                work()
            except BaseException as error:  # whatever it is, the test shall say it
                errors.append(error)

    threads = [threading.Thread(target=loop, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def convert(seed: int) -> tuple[int, float]:
    """How many merges a random model gave, and how far its results are off; every other one is compared as a whole."""
    model, x = random_model(seed), inputs(SHAPE)
    example = x if seed % 2 else None
    converted, report = reparamkit.apply(model, policy="always", return_report=True, example_inputs=example)
    with torch.no_grad():
        return len(report.merged), gap(model(x), converted(x))


class Trained:
    """A model that is trained while others are converted: what it computes is known beforehand."""

    def __init__(self) -> None:
        self.start = random_model(1000).train()
        self.wanted = self.losses()

    def losses(self) -> list[float]:
        model = copy.deepcopy(self.start)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(inputs(SHAPE)).pow(2).mean()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    def work(self) -> None:
        assert self.losses() == self.wanted


class Infers:
    """A model that is run, and traced by torch.fx, while others are converted."""

    def __init__(self) -> None:
        self.model = random_model(2000)
        self.wanted = self.output()

    def output(self) -> Tensor:
        with torch.inference_mode():
            return self.model(inputs(SHAPE))

    def work(self) -> None:
        assert torch.equal(self.output(), self.wanted)
        assert torch.is_grad_enabled()


def checks_modes() -> Callable[[], None]:
    wanted = modes()

    def work() -> None:
        assert modes() == wanted
        assert nn.Module.__call__ is call

    call = nn.Module.__call__
    return work


def test_converting_while_others_train_and_run() -> None:
    alone = [convert(seed) for seed in range(8)]
    assert all(merges > 0 and error <= 1e-9 for merges, error in alone)
    works = (Trained().work, Infers().work, Infers().work, checks_modes())
    before, until = attributes(), time.monotonic() + SECONDS  # the optimizer has loaded what it loads late
    done = 0
    with running(*works) as errors:
        while time.monotonic() < until and not errors:
            assert attributes() == before
            for seed, wanted in enumerate(alone):
                assert convert(seed)[0] == wanted[0]
                done += 1
    assert errors == []
    assert done >= len(alone)
    assert attributes() == before


def test_nothing_is_patched_while_a_conversion_runs() -> None:
    convert(0)
    before = attributes()
    seen: list[dict[Any, int]] = []
    changed: list[Any] = []

    def look() -> None:
        now = attributes()
        seen.append(now)
        changed.extend(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))

    with running(look) as errors:
        for seed in range(20):
            convert(seed)
    assert errors == []
    assert len(seen) > 1
    assert changed == []


def test_another_thread_draws_what_it_would_draw_alone() -> None:
    """A model that draws nothing needs no generator, so the one that all threads share is not touched."""
    drawn: list[Tensor] = []
    models, x = [random_model(seed) for seed in range(8)], inputs(SHAPE)
    reparamkit.apply(models[0], example_inputs=x)  # what is imported late may draw
    torch.manual_seed(1)
    with running(lambda: drawn.append(torch.rand(3))) as errors:
        for model in models:
            reparamkit.apply(model, example_inputs=x)
    assert errors == []
    assert len(drawn) > 100
    torch.manual_seed(1)
    assert all(torch.equal(torch.rand(3), found) for found in drawn)


def test_many_conversions_at_once() -> None:
    wanted = [convert(seed)[0] for seed in range(12)]
    before = attributes()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(convert, [*range(12)] * 3))
    assert [merges for merges, _ in found] == wanted * 3
    assert max(error for _, error in found) <= 1e-9
    assert attributes() == before


def test_one_model_converted_by_many_threads() -> None:
    model, x = random_model(5), inputs(SHAPE)
    with torch.no_grad():
        wanted = model(x)
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: reparamkit.apply(model), range(18)))
    with torch.no_grad():
        assert torch.equal(model(x), wanted)
        assert max(gap(wanted, one(x)) for one in made) <= 1e-9
    assert len({tuple(one.state_dict()) for one in made}) == 1


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_conversions_in_a_process_pool(method: str) -> None:
    wanted = [convert(seed)[0] for seed in range(4)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        found = list(pool.map(convert, range(4)))
        models = list(pool.map(reparamkit.apply, [random_model(seed) for seed in range(4)]))
    assert [merges for merges, _ in found] == wanted
    assert max(error for _, error in found) <= 1e-9
    x = inputs(SHAPE)
    with torch.no_grad():
        assert max(gap(random_model(seed)(x), one(x)) for seed, one in enumerate(models)) <= 1e-9
