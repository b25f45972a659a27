"""The README's examples run, and print what the README says they print."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from reparamkit.recipe import load_recipe, shipped_recipes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, text) for kind, text in _BLOCK.findall(README) if not text.startswith("# ")]


def section(title: str) -> list[tuple[str, str]]:
    """Kind and text of the blocks between a heading and the next one of its level or above."""
    level = len(title.partition(" ")[0])
    body = README.split(f"\n{title}\n", 1)[1]
    body = re.split(rf"^#{{2,{level}}} ", body, maxsplit=1, flags=re.MULTILINE)[0]
    return [block for block in _BLOCK.findall(body) if block in BLOCKS]


def run(blocks: list[tuple[str, str]], names: dict[str, Any] | None = None) -> None:
    """Run python blocks one after the other; compare what they print with the text block that follows."""
    names = {"__name__": "readme"} if names is None else names
    printed = ""
    for kind, text in blocks:
        if kind == "python":
            with redirect_stdout(StringIO()) as out:
                exec(compile(text, "README.md", "exec"), names)  # noqa: S102 - our own README
            printed = out.getvalue()
        elif kind == "text":
            assert _rounded(printed) == _rounded(text)


def _rounded(text: str) -> str:
    """Rounding errors differ between machines; that they are tiny does not."""
    return re.sub(r"\b\d\.\de-1\d\b", "tiny", text).strip()


def test_the_example_at_the_top() -> None:
    run(BLOCKS[:2])


def test_example_1_and_2() -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    run(section("### 1. A hand-written RepVGG block"), names)
    run(section("### 2. What will not be merged, and why"), names)


@pytest.mark.zoo
def test_example_3() -> None:
    pytest.importorskip("timm")
    run(section("### 3. A model from timm"))


def test_training() -> None:
    run([*BLOCKS[:1], *section("## Training")])


def test_every_python_block_is_run() -> None:
    titles = [line for line in README.splitlines() if line.startswith("### ")]
    covered = [*BLOCKS[:2], *(block for title in (*titles, "## Training") for block in section(title))]
    assert [b for b in BLOCKS if b[0] in ("python", "text")] == [b for b in covered if b[0] in ("python", "text")]


def test_recipe_example_is_valid() -> None:
    [(_, text)] = [block for block in BLOCKS if block[0] == "yaml"]
    assert load_recipe(text).name == "mine"


def test_table_of_recipes_is_complete() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README, re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(shipped_recipes())


def test_plugin_example_is_the_plugin() -> None:
    folder = ROOT / "plugins" / "reparamkit-hello"
    for file in (folder / "reparamkit_hello" / "__init__.py", folder / "pyproject.toml"):
        [shown] = re.findall(rf"^# \S*{re.escape(file.name)}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
        assert shown in file.read_text(encoding="utf-8")


def test_pipeline_is_drawn_as_in_the_package() -> None:
    source = (ROOT / "reparamkit" / "__init__.py").read_text(encoding="utf-8")
    [drawing] = re.findall(r"^    recipe ─┐\n(?:    .*\n)+", source, re.MULTILINE)
    assert drawing in README


@pytest.mark.parametrize("file", ["README.md", "plugins/README.md", "plugins/reparamkit-hello/README.md"])
def test_links_lead_somewhere(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / file).parent / target).exists(), target
