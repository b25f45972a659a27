"""What ultralytics does with a converted model: predict, validate, export. Images and weights are made here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import reparamkit
from tests.zoo import counts, randomize_norms

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its own, and those of what it calls, change with every release
]
SIZE = 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place where nothing is downloaded or installed."""
    import ultralytics.utils.checks as checks

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setattr(checks, "AUTOINSTALL", False, raising=False)
    monkeypatch.setattr(checks, "check_font", lambda *_: None)
    yield tmp_path
    for name in [key for key in os.environ if key.startswith("YOLO_") and key not in ("YOLO_VERBOSE", "YOLO_OFFLINE")]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def dataset(folder: Path) -> Path:
    """Four images with a box each, and the file that describes them."""
    from PIL import Image

    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        pixels = torch.randint(0, 255, (SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "data" / "images" / f"{index}.png")
        (folder / "data" / "labels" / f"{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n")
    described = folder / "data.yaml"
    described.write_text(f"path: {folder / 'data'}\ntrain: images\nval: images\nnames: {{0: a, 1: b}}\n")
    return described


def yolo(folder: Path) -> Any:
    """A small detector of two classes with batch norms that do something."""
    import yaml
    from ultralytics import YOLO
    from ultralytics.utils import ROOT

    file = folder / "yolov8n.yaml"
    described = yaml.safe_load((ROOT / "cfg" / "models" / "v8" / "yolov8.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**described, "nc": 2}), encoding="utf-8")
    torch.manual_seed(0)
    found: Any = YOLO(file, verbose=False)
    randomize_norms(found.model)
    return found


def converted(folder: Path) -> Any:
    found = yolo(folder)
    found.model = reparamkit.apply(found.model)
    assert counts(found.model)[1] == 0
    return found


def options(folder: Path) -> dict[str, Any]:
    return {"imgsz": SIZE, "device": "cpu", "verbose": False, "project": str(folder / "runs"), "plots": False}


def test_predict(folder: Path, dataset: Path) -> None:
    images = str(folder / "data" / "images")
    wanted, got = (
        m.predict(images, conf=1e-6, save=False, **options(folder)) for m in (yolo(folder), converted(folder))
    )
    assert len(wanted) == len(got) == 4
    assert sum(len(result.boxes) for result in wanted) > 0
    for one, other in zip(wanted, got, strict=True):
        assert torch.allclose(one.boxes.data, other.boxes.data, rtol=1e-3, atol=1e-2)


def test_val(folder: Path, dataset: Path) -> None:
    wanted, got = (
        m.val(data=str(dataset), workers=0, batch=2, **options(folder)) for m in (yolo(folder), converted(folder))
    )
    assert got.results_dict.keys() == wanted.results_dict.keys()
    for name, value in wanted.results_dict.items():
        assert abs(got.results_dict[name] - value) <= 1e-3, name


def test_export(folder: Path, dataset: Path) -> None:
    """As ONNX Runtime runs it."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = converted(folder)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model.model(image)[0]
    file = model.export(format="onnx", imgsz=SIZE, device="cpu", simplify=False, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (got, *_) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert torch.allclose(torch.from_numpy(got), wanted, rtol=1e-3, atol=1e-2)
