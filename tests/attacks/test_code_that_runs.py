"""Code that runs: plugins and models do, and are trusted; nothing else does, and not before it must."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reparamkit.model_source import load_model
from tests.hazards.row import hazard
from tests.hazards.told import raises

ROOT = Path(__file__).parents[2]


def run(code: str, *paths: Path, **environment: str) -> str:
    path = os.pathsep.join(map(str, [ROOT, *paths]))
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed plugin that says when it is loaded."""
    folder = tmp_path / "site"
    info = folder / "reparamkit_loud-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "reparamkit_loud.py").write_text("print('loaded')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reparamkit-loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reparamkit]\nloud = reparamkit_loud\n")
    return folder


USE = "import torch, reparamkit; reparamkit.plan(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)).eval())"


@hazard("S14", "plugins run at the first conversion, never at import", "harmless")
def test_s14_plugins_load_when_they_are_used(installed: Path) -> None:
    names = "import reparamkit; [getattr(reparamkit, n) for n in reparamkit.__all__]"
    assert run(names, installed) == ""
    assert run(USE, installed) == "loaded"


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("REPARAMKIT_DISABLE_PLUGINS", "1", ""),
        ("REPARAMKIT_LOAD_PLUGINS", "other", ""),
        ("REPARAMKIT_LOAD_PLUGINS", "loud", "loaded"),
    ],
)
@hazard("S14", "plugins can be switched off and chosen", "harmless")
def test_s14_plugins_can_be_switched_off(variable: str, value: str, wanted: str, installed: Path) -> None:
    assert run(USE, installed, **{variable: value}) == wanted


def test_what_plugins_bring_is_said_when_asked_for(installed: Path) -> None:
    (installed / "reparamkit_loud.py").write_text(
        "import reparamkit\n@reparamkit.hookimpl\ndef reparamkit_rules(): return []\n"
    )
    use = f"import sys; sys.stderr = sys.stdout; {USE}"
    assert "loud.reparamkit_rules() -> 0" in run(use, installed, REPARAMKIT_TRACE_PLUGINS="1")
    assert "loud" not in run(use, installed)


@hazard("S14", "a plugin that breaks at import breaks nothing else", "left out; `reparamkit plugins` lists it")
def test_s14_a_broken_plugin(installed: Path) -> None:
    (installed / "reparamkit_loud.py").write_text("raise SystemExit('gone')\n")
    code = f"{USE}\nfrom reparamkit.loading import default_registry\nprint(len(default_registry().failures))"
    assert run(code, installed) == "1"


@hazard("S15", "nothing runs at install time; the wheel is its sources", "harmless")
def test_s15_the_build_runs_no_code() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "tool.hatch.build.hooks" not in text
    assert not (ROOT / "setup.py").exists()
    assert not (ROOT / "hatch_build.py").exists()


SPECS = ("ultralytics:evil.pt", "ultralytics:http://x/evil.yaml.pt", "timm:hf-hub:x/y", "timm:hf_hub:x/y")


@pytest.mark.parametrize("spec", SPECS)
@hazard("S16", "models from hubs, and files that would be unpickled", "refused", "RK920")
def test_s16_nothing_is_fetched_or_unpickled(spec: str, harmless: Path, attacking: list[str]) -> None:
    pytest.importorskip(spec.partition(":")[0])
    attacking.clear()  # importing the package may do anything
    with raises("RK920", spec):
        load_model(spec)


@hazard("S16", "trust_remote_code is never on", "harmless")
def test_s16_no_remote_code_and_no_unsafe_load_in_the_sources() -> None:
    sources = "\n".join(file.read_text() for file in sorted((ROOT / "reparamkit").rglob("*.py")))
    assert "trust_remote_code=True" not in sources
    assert "weights_only=False" not in sources
    assert "torch.hub" not in sources
    assert sources.count("torch.load(") == sources.count("weights_only=True)")
    for call in (
        "yaml.load(",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pickle.load",
        "eval(compile",
        "os.system",
        "shell=True",
    ):
        assert call not in sources, call


@hazard("S20", "SECURITY.md: how to report, what is trusted, what is no vulnerability", "harmless")
def test_s20_the_threat_model_is_stated() -> None:
    text = (ROOT / "SECURITY.md").read_text().lower()
    for part in ("reporting", "recipes", "checkpoints", "plugins", "models", "no vulnerability"):
        assert part in text
