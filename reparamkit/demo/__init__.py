"""`reparamkit demo`: the main job from end to end, on data that scikit-learn brings.

network    a small RepVGG
training   handwritten digits; fixed seeds
measure    what deployment cares about: accuracy, size, memory, time
show       the table
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

import reparamkit
from reparamkit.bench.latency import latency
from reparamkit.demo.measure import measured
from reparamkit.demo.network import SmallRepVGG
from reparamkit.demo.show import comparison, heading, line
from reparamkit.demo.training import digits, train
from reparamkit.errors import OutputError
from reparamkit.report import Report

__all__ = ["SmallRepVGG", "run"]

RECIPE = "repvgg.yaml"


def run(folder: Path, epochs: int) -> bool:
    """Train, convert, compare, save.

    Args:
        folder: takes the two checkpoints.
        epochs: how long to train.

    Returns:
        Whether the two networks predict the same for every test image.

    Raises:
        OutputError: a checkpoint cannot be written.
    """
    _made(folder)
    data = digits()
    heading(f"1. Train a small RepVGG: {len(data.train_y)} images of handwritten digits, {epochs} epochs")
    trained = train(SmallRepVGG(), data, epochs, progress=line)
    _save(trained, folder / "train.safetensors", None)

    heading(f'2. reparamkit.apply(model, recipe="{RECIPE}")')
    deploy, report = reparamkit.apply(trained, recipe=RECIPE, return_report=True)
    for merged in report.merged:
        line(f"{merged.path}: {merged.before} -> {merged.after}")
    _save(deploy, folder / "deploy.safetensors", report)

    heading("3. Compare")
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
