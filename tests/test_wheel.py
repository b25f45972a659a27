"""What is built is what is meant: the recipes travel inside the wheel, and are found there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parent.parent
RECIPES = sorted(p.name for p in (ROOT / "recipes").iterdir() if p.is_file())


def build(kind: str, folder: Path) -> Path:
    """Build without isolation, so that nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_recipes_types_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [entry] = [name for name in names if name.endswith("entry_points.txt")]
        assert "reparamkit = reparamkit.cli:main" in archive.read(entry).decode()
    assert sorted(n.removeprefix("reparamkit/recipes/") for n in names if "/recipes/" in n) == RECIPES
    assert "reparamkit/py.typed" in names
    data = "catalogue.yaml html/page.html.jinja html/page.css html/sort.js scaffold/layer.py.txt".split()
    assert {f"reparamkit/{name}" for name in data} <= set(names)
    assert [n for n in names if n.endswith("licenses/LICENSE")]
    assert not [n for n in names if not n.startswith(("reparamkit/", "reparamkit-"))]


def test_unpacked_wheel_finds_its_recipes(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import reparamkit\n"
        "from reparamkit.recipe import load_recipe, shipped_recipes\n"
        "print(reparamkit.__file__, *(load_recipe(name).name for name in shipped_recipes()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file, *names = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert names == [name.removesuffix(".yaml") for name in RECIPES if name.endswith(".yaml")]


def test_sdist_can_be_built_from(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"recipes/{name}" for name in RECIPES} <= names
    assert {"pyproject.toml", "README.md", "reparamkit/__init__.py", "tests/test_wheel.py"} <= names
    assert not [n for n in names if n.partition("/")[0] in ("docs", "benchmarks", ".ci", ".venv", "demo-output")]
