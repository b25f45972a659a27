"""Expanded models train like any other: mixed precision, checkpointing, compilation, copies, several processes."""

from __future__ import annotations

import copy
import datetime
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reparamkit
from reparamkit.errors import ModelError
from tests.helpers import gap, inputs, randomize

RECIPES = ["repvgg", "dbb", "mobileone", "qarepvgg"]
SHAPE = (4, 4, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    )
    return model


def expanded(recipe: str = "dbb", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return reparamkit.expand(randomize(network()).train(), recipe, **options)


def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer.zero_grad()
    loss = model(x).float().pow(2).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def assert_collapses(model: nn.Module, x: Tensor, rtol: float = 1e-5) -> None:
    model.eval()
    deploy = reparamkit.apply(model)
    assert [type(m) for m in deploy][:3] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    with torch.no_grad():
        assert gap(model(x), deploy(x)) <= rtol


@pytest.mark.parametrize("name", RECIPES)
def test_autocast(name: str) -> None:
    model, x = expanded(name), inputs(SHAPE, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        step(model, x)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert_collapses(model, x)


@pytest.mark.parametrize("name", RECIPES)
def test_gradient_checkpointing_has_the_same_gradients(name: str) -> None:
    model, x = expanded(name), inputs(SHAPE, dtype=torch.float32)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0  # a recomputed forward moves running statistics twice, and DBB's borders follow them
    twin = copy.deepcopy(model)
    model(x).pow(2).mean().backward()
    checkpoint(twin, x, use_reentrant=False).pow(2).mean().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert gap(one.grad, other.grad) <= 1e-5


@pytest.mark.parametrize("name", ["dbb", "repvgg"])
def test_compile_sees_one_graph(name: str) -> None:
    model, x = expanded(name), inputs(SHAPE, dtype=torch.float32)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for mode in (True, False):
        wanted, got = model.train(mode)(x), compiled.train(mode)(x)
        assert gap(wanted.detach(), got.detach()) <= 1e-5


def test_online_compiles_too() -> None:
    torch.manual_seed(0)
    model: Any = reparamkit.expand(network(), "orepa", online=True)
    x = inputs(SHAPE, dtype=torch.float32)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    assert gap(model(x).detach(), compiled(x).detach()) <= 1e-5


@pytest.mark.parametrize("online", [False, True])
def test_copies_and_averages(online: bool) -> None:
    """An exponential average, a pickle and a deep copy of an expanded model collapse as well."""
    torch.manual_seed(0)
    model = reparamkit.expand(network(), "orepa", online=online)
    x = inputs(SHAPE, dtype=torch.float32)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        step(model, x)
        average.update_parameters(model)
    assert_collapses(copy.deepcopy(average.module), x)
    assert_collapses(copy.deepcopy(model), x)


@pytest.mark.parametrize("name", [*RECIPES, "ecb", "expandnet"])
def test_state_dict_restores_a_run(name: str, tmp_path: Path) -> None:
    """`expand` and `load_state_dict` in a new process are enough; the optimizer goes on as if nothing had happened."""
    model, x = expanded(name), inputs(SHAPE, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        step(model, x, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")

    torch.manual_seed(99)
    again = reparamkit.expand(network(), name)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    again.load_state_dict(saved["model"])
    resumed = torch.optim.AdamW(again.parameters(), lr=1e-2)
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(2):
        assert gap(step(model, x, optimizer), step(again, x, resumed)) <= 1e-6
    torch.save(model, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert_collapses(whole, x)


def test_fine_tuning_after_expanding_starts_from_the_same_function() -> None:
    """An optimizer step on the expanded model lowers the loss from where the plain model stood."""
    plain = randomize(network())
    x = inputs((8, 4, 8, 8), dtype=torch.float32)
    train = reparamkit.expand(plain, "repvgg", example_inputs=x)
    with torch.no_grad():
        before = plain(x).pow(2).mean()
        train[3].eval()
        assert gap(before, train(x).pow(2).mean()) <= 1e-4
    train.train()[3].eval()
    first = step(train, x, torch.optim.SGD(train.parameters(), lr=1e-3))
    assert gap(before, first) <= 1e-4
    assert step(train, x, torch.optim.SGD(train.parameters(), lr=1e-3)) < first


def _processes(run: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mp.start_processes(run, args=(str(tmp_path),), nprocs=2, start_method="spawn")


def _init(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wait = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=wait)


def _end() -> None:
    """Ends the process at once: threads of gloo may abort one that is taken down while the other still talks to it."""
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def _data_parallel(rank: int, folder: str) -> None:
    _init(rank, folder)
    model = expanded("dbb")
    wrapped = nn.parallel.DistributedDataParallel(model)
    x = inputs((8, *SHAPE[1:]), dtype=torch.float32)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
    for _ in range(2):
        step(wrapped, x[4 * rank : 4 * rank + 4], optimizer)
    with pytest.warns(UserWarning, match=r"RK605.*model\.module of a DistributedDataParallel"):
        reparamkit.apply(wrapped.eval())
    with pytest.raises(ModelError, match="RK605"):
        reparamkit.expand(wrapped, "dbb")
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    theirs = mine.clone()
    dist.broadcast(theirs, 0)
    assert torch.equal(mine, theirs)
    assert_collapses(copy.deepcopy(wrapped.module), x)
    # Synchronised batch norms: torch trains them on accelerators only (it says so when asked to on a CPU), in eval mode
    # they run anywhere; every norm of the expanded model is one that torch knows how to exchange.
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped.module)
    norms = [m for m in synchronised.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m) for m in norms} == {nn.SyncBatchNorm}
    with pytest.raises(ValueError, match="SyncBatchNorm layers only work with"):
        nn.parallel.DistributedDataParallel(synchronised)
    assert_collapses(synchronised, x)
    if rank == 0:
        (Path(folder) / "done").write_text(f"{len(norms)} norms")
    _end()


def _sharded(rank: int, folder: str) -> None:
    _init(rank, folder)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = expanded("repvgg")
    mesh = init_device_mesh("cpu", (2,))
    for block in (model[0], model[2]):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    x = inputs((8, *SHAPE[1:]), dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        step(model, x[4 * rank : 4 * rank + 4], optimizer)
    with pytest.raises(ModelError, match=r"RK507.*get_model_state_dict with full_state_dict=True"):
        reparamkit.apply(model.eval())
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        whole = expanded("repvgg")
        whole.load_state_dict(state)
        assert_collapses(whole, x)
        (Path(folder) / "done").write_text("sharded")
    _end()


def test_two_processes_with_data_parallel_and_synchronised_batch_norm(tmp_path: Path) -> None:
    _processes(_data_parallel, tmp_path)
    assert (tmp_path / "done").read_text() == "13 norms"


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 shards on accelerators only")
def test_two_processes_with_fully_sharded_parameters(tmp_path: Path) -> None:
    _processes(_sharded, tmp_path)
    assert (tmp_path / "done").read_text() == "sharded"


def test_synchronised_batch_norms_collapse() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(expanded("dbb"))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert_collapses(randomize(model), inputs(SHAPE, dtype=torch.float32))
