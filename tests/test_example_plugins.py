"""Each folder in plugins/ works as an installed plugin: found through its entry point, without pip."""

from __future__ import annotations

import importlib
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from reparamkit.loading import build, default_registry

FOLDERS = sorted(p.parent for p in (Path(__file__).parent.parent / "plugins").glob("*/pyproject.toml"))


def entry_points(folder: Path) -> dict[str, str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = project["entry-points"]["reparamkit"]
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty site-packages that is the only place with plugins, but for packages that are installed anyway."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("REPARAMKIT_DISABLE_PLUGINS", raising=False)
    before = set(sys.modules)
    default_registry.cache_clear()
    yield tmp_path
    default_registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("reparamkit_"):
            del sys.modules[name]


def install(folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip would leave behind: the package, and a dist-info with the entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"{name} = {target}" for name, target in entry_points(folder).items()]
    (info / "entry_points.txt").write_text("\n".join(["[reparamkit]", *lines]) + "\n", encoding="utf-8")
    for package in folder.glob("reparamkit_*"):
        shutil.copytree(package, site / package.name)
        # The folder may also be installed for good; these are the files that count here.
        for name in [n for n in sys.modules if n.partition(".")[0] == package.name]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("REPARAMKIT_LOAD_PLUGINS", ",".join(entry_points(folder)))
    importlib.invalidate_caches()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_rules_come_through_the_entry_point(folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, site, monkeypatch)
    registry = build()
    assert not registry.failures
    for name in entry_points(folder):
        brought = {rule.rule for rule in registry.rules if rule.origin == name}
        assert brought
        assert all(rule.startswith(f"{name}/") for rule in brought)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_plugin_is_a_complete_package(folder: Path) -> None:
    assert (folder / "README.md").is_file()
    assert list((folder / "tests").glob("test_*.py"))
    assert list(folder.glob("reparamkit_*/__init__.py"))


@pytest.fixture
def hello(site: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    install(next(f for f in FOLDERS if f.name == "reparamkit-hello"), site, monkeypatch)
    return importlib.import_module("reparamkit_hello")


@pytest.mark.parametrize("seed", range(8))
def test_channel_gain_folds_into_one_convolution(hello: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inside, outside, kernel = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(3))
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=seed % 2 == 0)
    model = nn.Sequential(conv, hello.ChannelGain(outside)).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    converted, report = reparamkit.apply(model, return_report=True)

    assert [type(m) for m in converted.modules() if not isinstance(m, (nn.Sequential, nn.Identity))] == [nn.Conv2d]
    assert "hello/channel_gain" in report.merged[0].rules
    x = torch.randn(2, inside, 9, 10, generator=generator, dtype=torch.float64)
    wanted = model(x)
    assert (converted(x) - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def test_an_installed_plugin_may_also_be_given(hello: Any) -> None:
    registry = build([hello])
    assert [name for name, _ in registry.plugins] == ["core", "hello"]
    assert len([rule for rule in registry.rules if rule.rule == "hello/channel_gain"]) == 1


def test_a_broken_plugin_is_reported_and_left_out(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = site / "reparamkit_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reparamkit-broken\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[reparamkit]\nbroken = reparamkit_broken\n", encoding="utf-8")
    (site / "reparamkit_broken.py").write_text("raise RuntimeError('half installed')\n", encoding="utf-8")
    monkeypatch.setenv("REPARAMKIT_LOAD_PLUGINS", "broken")
    importlib.invalidate_caches()
    with pytest.warns(UserWarning, match="broken.*half installed"):
        registry = build()
    assert registry.failures[0].plugin == "broken"
    assert [name for name, _ in registry.plugins] == ["core"]
