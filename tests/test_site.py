"""The documentation: its code runs, what is generated is fresh, links lead somewhere, the site needs no network."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import reparamkit
from reparamkit.catalogue import catalogue
from reparamkit.recipe import load_recipe, shipped_recipes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "templates" not in p.parts)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READMES = ("README.md", "README.zh-CN.md")
NEEDS = {
    "export.md": ("onnx", "onnxscript", "onnxruntime"),
    "checkpoints.md": ("safetensors",),
    "index.md": ("safetensors",),
}


def blocks(file: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(file.read_text(encoding="utf-8"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(kind == "python" for kind, _ in blocks(p))], ids=lambda p: str(p.relative_to(DOCS))
)
def test_code_runs_and_prints_what_the_page_says(page: Path) -> None:
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package)
    names: dict[str, Any] = {"__name__": page.stem}
    printed = ""
    for kind, text in blocks(page):
        if kind == "python":
            with redirect_stdout(StringIO()) as out:
                exec(compile(text, page.name, "exec"), names)  # noqa: S102 - our own page
            printed = out.getvalue()
        elif kind == "text":
            assert printed.strip() == text.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_recipes_in_pages_are_valid(page: Path) -> None:
    for kind, text in blocks(page):
        if kind == "yaml":
            assert load_recipe(text).version == 1


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    pytest.importorskip("typer")
    sys.path.insert(0, str(DOCS))
    try:
        return dict(script("generate").pages())
    finally:
        sys.path.remove(str(DOCS))


def test_generated_pages_are_fresh(generated: dict[str, str]) -> None:
    stale = [path for path, text in generated.items() if not _is(DOCS / path, text)]
    assert not stale, "run: python docs/generate.py"


def _is(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


def test_every_code_and_every_recipe_has_its_place(generated: dict[str, str]) -> None:
    assert re.findall(r"^### (RK\d+)$", generated["reference/errors.md"], re.MULTILINE) == sorted(catalogue())
    assert {p.stem for p in (DOCS / "recipes").glob("*.md")} == {"index", *shipped_recipes()}


def test_every_recipe_is_described_drawn_and_measured(generated: dict[str, str]) -> None:
    words = yaml.safe_load((DOCS / "recipes.yaml").read_text(encoding="utf-8"))
    assert set(words) == set(shipped_recipes())
    for name in shipped_recipes():
        page = generated[f"recipes/{name}.md"]
        for section in ("## Anatomy", "## Algebra", "## Measured", f"figures/{name}-before.svg"):
            assert section in page, name


def test_every_page_is_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    recipes = {f"recipes/{name}.md" for name in shipped_recipes()}  # in the table of recipes/index.md
    assert listed | recipes == {str(p.relative_to(DOCS)) for p in PAGES}


@pytest.mark.parametrize("file", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_both_readmes_have_the_same_code_and_the_same_tables() -> None:
    assert blocks(ROOT / "README.zh-CN.md") == blocks(ROOT / "README.md")
    shown = [re.findall(r"^\| `([\w ]+)`", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) for name in READMES]
    assert shown[0] == shown[1]


@pytest.mark.zoo
@pytest.mark.parametrize("recipe", ["repvgg", "acnet", "dbb", "fold_bn"])
def test_measured_counts_are_true(recipe: str) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    stored = json.loads((DOCS / "measured.json").read_text(encoding="utf-8"))
    row = stored["models"][recipe][0]
    assert script("measure").measured(row["model"], recipe, row["input"]) == row, "run: python docs/measure.py"


def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in ("docs", "reparamkit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "-f", str(tmp_path / "mkdocs.yml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    site = tmp_path / "site"
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file(), page
    assert not list(site.rglob("*.py"))
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+href=\"?(?:https?:)?//", text), (
            page
        )
    api = (site / "api.html").read_text(encoding="utf-8")
    assert "Turn the multi-branch blocks of" in api


def test_version_is_told_once() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {reparamkit.__version__}" in changelog
