"""`reparamkit demo`: the whole circle, on data that scikit-learn brings.

    plain network ─► expand ─► train ─► apply ─► the plain network again, trained

network    a small VGG
training   handwritten digits; fixed seeds
measure    what deployment cares about: accuracy, size, memory, time
show       the table
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import reparamkit
from reparamkit.bench.latency import latency
from reparamkit.demo.measure import measured
from reparamkit.demo.network import SmallVGG
from reparamkit.demo.show import comparison, heading, line
from reparamkit.demo.training import SEED, Digits, digits, train
from reparamkit.errors import OutputError
from reparamkit.report import Report

__all__ = ["SmallVGG", "run"]

RECIPE = "repvgg"


def run(folder: Path, epochs: int) -> bool:
    """Expand a plain network, train it, convert it, compare, save.

    Args:
        folder: takes the two checkpoints.
        epochs: how long to train.

    Returns:
        Whether the trained network and its deploy form predict the same for every test image.

    Raises:
        OutputError: a checkpoint cannot be written.
    """
    _made(folder)
    data = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        plain = SmallVGG().eval()
        branched = _expanded(plain, data)
    heading(f"2. Train it: {len(data.train_y)} images of handwritten digits, {epochs} epochs")
    trained = train(branched, data, epochs, progress=line)
    _save(trained, folder / "train.safetensors", None)
    deploy, report = _converted(trained, plain)
    _save(deploy, folder / "deploy.safetensors", report)
    return _compared(trained, deploy, report, data)


def _expanded(plain: nn.Module, data: Digits) -> nn.Module:
    heading(f'1. reparamkit.expand(plain, "{RECIPE}")')
    branched, expansion = reparamkit.expand(plain, RECIPE, return_report=True)
    for layer in expansion.layers:
        line(str(layer))
    with torch.no_grad():
        gap = (plain(data.test_x) - branched(data.test_x)).abs().max().item()
    line(f"the same function as the plain network: outputs differ by {gap:.1e} at most")
    return branched


def _converted(trained: nn.Module, plain: nn.Module) -> tuple[nn.Module, Report]:
    heading(f'3. reparamkit.apply(trained, "{RECIPE}")')
    deploy, report = reparamkit.apply(trained, RECIPE, return_report=True)
    for merged in report.merged:
        line(f"{merged.path}: {merged.before} -> {merged.after}")
    plain.load_state_dict(deploy.state_dict(), strict=True)
    line("the plain network again: it takes these weights, key by key")
    return deploy, report


def _compared(trained: nn.Module, deploy: nn.Module, report: Report, data: Digits) -> bool:
    heading("4. Compare")
    same = int((trained(data.test_x).argmax(1) == deploy(data.test_x).argmax(1)).sum())
    comparison(measured(trained, data), measured(deploy, data))
    line(f"activations: layer outputs held at the same time, {len(data.test_x)} images at once")
    for batch in (1, len(data.test_x)):
        line(f"latency, batch {batch}: {latency(trained, deploy, (data.test_x[:batch],))}")
    line(f"identical predictions: {same} of {len(data.test_y)} test images")
    line(f"largest error of a merge, in float64, relative: {report.max_error or 0.0:.1e}")
    return same == len(data.test_y)


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("RK912", f"{folder}: {error}") from error


def _save(model: nn.Module, path: Path, report: Report | None) -> None:
    reparamkit.save(model, path, report, force=True)
    line(f"wrote {path} ({path.stat().st_size / 1024:,.0f} KiB)")
