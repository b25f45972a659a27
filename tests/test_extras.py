"""Without each optional extra: what needs none works, and what needs it says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "cli": ("typer", "rich", "click"),
    "safetensors": ("safetensors",),
    "report": ("jinja2",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "bench": ("matplotlib", "mlxtend"),
    "zoo": ("timm", "torchvision", "ultralytics", "transformers"),
    "demo": ("sklearn", "rich", "typer"),
}
_BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
_CONVERT = """
import torch
from torch import nn
import reparamkit
model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)).eval()
converted, report = reparamkit.apply(model, return_report=True, example_inputs=torch.ones(1, 2, 8, 8))
print(len(report.merged), len(str(report)) > 0, len(report.to_json()) > 0)
"""


def run(extras: tuple[str, ...], code: str, *args: str) -> subprocess.CompletedProcess[str]:
    names = {name for extra in extras for name in OPTIONAL[extra]}
    text = _BLOCK.format(names=names) + code
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", text, *args], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("extras", [(extra,) for extra in OPTIONAL] + [tuple(OPTIONAL)], ids="-".join)
def test_a_conversion_needs_no_extra(extras: tuple[str, ...]) -> None:
    done = run(extras, _CONVERT)
    assert done.stdout.split() == ["1", "True", "True"], done.stderr


def test_every_name_and_module_of_the_library_is_there_without_extras() -> None:
    code = (
        "import importlib, pkgutil, reparamkit\n"
        "[getattr(reparamkit, name) for name in reparamkit.__all__]\n"
        "skipped = ('reparamkit.cli.', 'reparamkit.demo', 'reparamkit.__main__', 'reparamkit.recipe.__main__')\n"
        "found = [m.name for m in pkgutil.walk_packages(reparamkit.__path__, 'reparamkit.')]\n"
        "done = [importlib.import_module(n) for n in found if not n.startswith(skipped)]\n"
        "print(len(done) > 60)"
    )
    done = run(tuple(OPTIONAL), code)
    assert done.stdout.strip() == "True", done.stderr


_MODEL = "import torch, reparamkit\nfrom torch import nn\nmodel = nn.Sequential(nn.Conv2d(2, 2, 3)).eval()\n"
_REPORTED = _MODEL + "converted, report = reparamkit.apply(model, return_report=True)\n"
ASKED = {
    "cli": ("from reparamkit.cli import main; main()", "reparamkit[cli]"),
    "safetensors": (_MODEL + "reparamkit.save(model, 'x.safetensors')", "reparamkit[safetensors]"),
    "report": (_REPORTED + "report.to_html(model, converted)", "reparamkit[report]"),
    "onnx": (
        _MODEL + "from reparamkit.export import export_onnx\nexport_onnx(model, 'x.onnx', torch.ones(1, 2, 8, 8))",
        "reparamkit[onnx]",
    ),
    "zoo": ("from reparamkit.model_source import load_model; load_model('timm:repvgg_a0')", "reparamkit[zoo]"),
}


@pytest.mark.parametrize("extra", ASKED)
def test_what_needs_an_extra_says_what_to_install(extra: str, tmp_path: Path) -> None:
    code, wanted = ASKED[extra]
    done = run((extra,), f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    assert done.returncode != 0
    assert wanted in done.stderr.strip().splitlines()[-1], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_extra_of_users_is_tried() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ours = {"test", "docs", "dev", "browser"}  # for working on it
    assert set(extras) - ours == set(OPTIONAL)
