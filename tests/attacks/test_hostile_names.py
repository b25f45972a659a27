"""Names of modules, classes, recipes and files are text from strangers: on a terminal, in HTML, in an error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import reparamkit
from reparamkit.recipe import load_recipe
from tests.hazards.row import hazard
from tests.hazards.told import raises
from tests.helpers import randomize

HTML = (
    *("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</script><script>alert(1)", '"><svg onload=x>'),
    *("<!--", "]]>", "javascript:alert(1)", "{{ 7 * 7 }}", "{% include '/etc/passwd' %}", "&lt;b&gt;", "' onclick='x"),
)
TERMINAL = (
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\x1b]8;;http://x\x1b\\",
    "\r\nfake line",
    "\x08" * 9,
    "\u202e",
    "\0",
)
HELD = """
import torch
from torch import nn

class Held(nn.Module):
    def __init__(self):
        super().__init__()
        layers = {{n.replace(".", "_"): nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for n in {names!r}}}
        self.held = nn.ModuleDict(layers)

    def forward(self, x):
        for layer in self.held.values():
            x = torch.relu(layer(x))
        return x
"""
MARKUP = ("[red]", "[link=http://x]", "[/]", "[bold blink]", ":smile:")


def named(name: str) -> nn.Module:
    """A model in which everything that can have a name has this one."""
    key = name.replace(".", "_") or "empty"
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    kind = type(name.replace("\0", ""), (nn.ModuleDict,), {"forward": lambda self, x: self[key](x)})
    made: nn.Module = kind({key: layers})
    return randomize(made).float()


@pytest.mark.parametrize("name", HTML)
@hazard("S12", "HTML, scripts and templates in names, in the HTML report", "harmless")
def test_s12_names_in_html(name: str, attacking: list[str]) -> None:
    pytest.importorskip("jinja2")
    model = named(name)
    converted, report = reparamkit.apply(model, return_report=True)
    assert report.merged
    page = report.to_html(model, converted, title=name)
    tags = set(re.findall(r"<([a-zA-Z]+)", page))
    harmless = named("plain")
    other, plain = reparamkit.apply(harmless, return_report=True)
    assert tags == set(re.findall(r"<([a-zA-Z]+)", plain.to_html(harmless, other, title="plain")))
    assert page.count("<script") == 1
    assert not re.search(r"<[^>]*\son\w+\s*=", page)
    assert "49" not in re.findall(r"<title>(.*?)</title>", page, re.DOTALL)[0]


def command(*args: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    code = "from reparamkit.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, cwd=folder, check=False)


@hazard("S13", "escape sequences and markup in names, on a terminal", "harmless")
def test_s13_names_on_a_terminal(harmless: Path) -> None:
    pytest.importorskip("typer")
    (harmless / "evil.py").write_text(HELD.format(names=[*TERMINAL, *MARKUP]))
    done = command("plan", "--model", "evil:Held", folder=harmless)
    assert done.returncode == 0, done.stderr
    shown = (done.stdout + done.stderr).decode()
    assert not [c for c in shown if not (c.isprintable() or c == "\n")]
    for text in MARKUP:
        assert text in shown


@pytest.mark.parametrize("name", TERMINAL)
@hazard("S13", "escape sequences in what an error quotes", "refused", "RK702")
def test_s13_quoted_in_errors(name: str, attacking: list[str]) -> None:
    spec = {"version": 1, "name": name, name: 1, "blocks": [{"match": {"class": name, name: 2}}]}
    with raises("RK702", "blocks[0].match") as caught:
        load_recipe(spec)
    assert not [c for c in str(caught.value) if not (c.isprintable() or c == "\n")]
    with raises("RK702", "<text>:3:1") as caught:
        load_recipe(f"version: 1\nname: x\n{json.dumps(name)}: 1\nblocks:\n  - match: {{class: A}}\n")
    assert not [c for c in str(caught.value) if not (c.isprintable() or c == "\n")]


def test_terminal_names_are_hostile() -> None:
    assert all(not name.isprintable() for name in TERMINAL)
    assert torch.nn.ModuleDict({"\x1b[2J": nn.ReLU()}) is not None
