"""The HTML report: what it says, that names in it are only text, and how a real browser shows it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("jinja2")

import reparamkit
from reparamkit.bench.compare import size
from reparamkit.catalogue import entry
from reparamkit.html import render
from reparamkit.html.diagram import before_and_after, histogram
from reparamkit.html.layout import BOX, layout
from reparamkit.html.ranges import ranges
from reparamkit.report.merged import Merged, Step
from tests import blocks
from tests.helpers import randomize

EVIL = "<img src=x onerror=alert(1)>"


class Everything(nn.Module):
    """Merges of several kinds, a refusal, and a module with a hostile name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = blocks.RepVGGBlock(), blocks.RepVGGBlock()
        self.zeros = nn.Conv2d(8, 8, 3, padding=1)
        self.reflect = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.rest = nn.ModuleDict({EVIL: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))})

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = torch.relu(self.zeros(x) + self.reflect(x))
        for module in self.rest.values():
            x = module(x)
        return x


def page() -> tuple[str, reparamkit.Report]:
    model = randomize(Everything()).float()
    x = torch.zeros(1, 8, 12, 12)
    converted, report = reparamkit.apply(model, example_inputs=x, return_report=True)
    return render(report, model, converted, sizes=(size(model, x), size(converted, x)), title=EVIL), report


class TestPage:
    def test_it_says_what_the_report_says(self) -> None:
        text, report = page()
        assert "3 merges" in text
        for merged in report.merged:
            assert merged.path.partition(".")[0] in text
        assert "RK312" in text
        assert entry("RK312").do in text
        assert "multiply-accumulates" in text
        assert text.count("<section") == len({(m.graph, m.rules) for m in report.merged})

    def test_what_saves_most_comes_first(self) -> None:
        model = randomize(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), blocks.RepVGGBlock()))
        converted, report = reparamkit.apply(model, return_report=True)
        text = render(report, model, converted)
        gains = [m.macs_before - m.macs_after for m in report.merged]
        assert gains != sorted(gains, reverse=True), "the model merges in another order"
        table = text[text.index('<table id="merged">') :]
        shown = [-float(value) for value in re.findall(r'data-value="([^"]*)"', table)[1::3][: len(gains)]]
        assert shown == sorted(gains, reverse=True)

    def test_what_was_timed(self) -> None:
        assert "Timed to decide" not in page()[0]
        model = randomize(nn.Sequential(nn.Conv2d(8, 2, 1, bias=False), nn.Conv2d(2, 8, 3))).float()
        policy = reparamkit.measured(seconds=0.01)
        converted, report = reparamkit.apply(
            model, policy=policy, example_inputs=torch.zeros(1, 8, 6, 5), return_report=True
        )
        text = render(report, model, converted)
        assert "conv 8, 3x3 on 1x8x6x5 instead of " in text
        assert "conv 8, 3x3 on 1x2x6x5" in text

    def test_names_are_text(self) -> None:
        text, _ = page()
        assert "<img" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text

    def test_it_needs_nothing_else(self) -> None:
        text, _ = page()
        addresses = re.findall(r"""\b(?:src|href)=["']?([^"'>\s]*)""", text.replace("&lt;img src=x", ""))
        assert addresses == ["data:,"]
        assert "url(" not in text
        assert "Content-Security-Policy" in text
        assert len(re.findall("<script", text)) == 1

    def test_from_the_report_itself(self) -> None:
        model = randomize(blocks.RepVGGBlock()).float()
        converted, report = reparamkit.apply(model, return_report=True)
        assert "RepVGGBlock" in report.to_html(model, converted)

    def test_nothing_merged(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval()
        converted, report = reparamkit.apply(model, return_report=True)
        assert "Nothing was merged." in render(report, model, converted)


class TestDiagram:
    def test_region_of_a_repvgg_block(self) -> None:
        _, report = reparamkit.apply(randomize(blocks.RepVGGBlock()), return_report=True)
        [merged] = report.merged
        labels = [step.label for step in merged.graph]
        assert sorted(labels) == ["BatchNorm2d"] * 3 + ["Conv2d 1x1", "Conv2d 3x3", "add"]
        assert len(merged.graph[-1].inputs) == 3  # sums of sums are one sum
        assert [step.inputs for step in merged.graph].count((-1,)) == 3
        before, after = (ElementTree.fromstring(svg) for svg in before_and_after(merged))
        texts = [t.text for t in before.iter("{http://www.w3.org/2000/svg}text")]
        assert sorted(filter(None, texts)) == sorted(["input", *labels])
        assert merged.after in [t.text for t in after.iter("{http://www.w3.org/2000/svg}text")]

    def test_foreign_names_are_escaped(self) -> None:
        class Evil(nn.Conv2d):
            pass

        Evil.__name__ = EVIL
        merged = Merged("", "swap", (), EVIL, EVIL, 1, 1, 1, 1, 0.0, (Step(EVIL, (-1,)),))
        for svg in before_and_after(merged):
            assert "<img" not in svg
            ElementTree.fromstring(svg)

    def test_too_large_for_a_picture(self) -> None:
        step = Step("conv", (-1,))
        merged = Merged("", "swap", (), "", "", 1, 1, 1, 1, 0.0, (step,) * 41)
        assert before_and_after(merged) == ("", "")

    def test_histogram(self) -> None:
        root = ElementTree.fromstring(histogram([-16, -16, -14]))
        assert [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")] == [
            "2", "1e-16", "0", "1e-15", "1", "1e-14",
        ]  # fmt: skip
        assert histogram([]) == ""


class TestLayout:
    @pytest.mark.parametrize("seed", range(20))
    def test_boxes_do_not_overlap_and_edges_go_down(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(limit: int) -> int:
            return int(torch.randint(limit, (1,), generator=generator))

        count = 2 + draw(20)
        inputs = [[], *([draw(node) for _ in range(1 + draw(3))] for node in range(1, count))]
        placed = layout([float(20 + draw(120)) for _ in range(count)], inputs)
        boxes = [(n.x - n.width / 2, n.x + n.width / 2, n.y) for n in placed.nodes]
        for i, (left, right, y) in enumerate(boxes):
            assert left >= 0
            assert right <= placed.width
            assert y - BOX / 2 >= 0
            assert y + BOX / 2 <= placed.height
            assert not [1 for a, b, z in boxes[:i] if z == y and a < right and left < b]
        assert len(placed.edges) == sum(len(sources) for sources in inputs)
        assert all(a[1] <= b[1] for edge in placed.edges for a, b in pairwise(edge))

    def test_a_long_edge_goes_round_the_boxes_between(self) -> None:
        placed = layout([60.0, 60.0, 60.0, 60.0], [[], [0], [1], [2, 0]])
        long = placed.edges[-1]
        assert len(long) == 6
        for x, y in long[1:-1]:
            assert not [n for n in placed.nodes if abs(n.y - y) <= BOX / 2 and abs(n.x - x) < n.width / 2]


class TestRanges:
    def test_a_fold_that_spreads_the_channels_is_warned_about(self) -> None:
        conv, norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        nn.init.ones_(conv.weight)
        conv.weight.data += torch.rand(4, 4, 1, 1) / 10
        norm.weight.data = torch.tensor([1.0, 1.0, 1.0, 50.0])
        model = nn.Sequential(conv, norm).eval()
        converted, report = reparamkit.apply(model, return_report=True)
        [found] = ranges(report, model, converted)
        assert found.path == "0"
        assert found.before == pytest.approx(1.0, abs=0.1)
        assert found.growth == pytest.approx(50, rel=0.2)
        assert found.int8_after > found.int8_before
        assert found.int8_channels < found.int8_after
        assert found.warns
        assert "INT8 with one scale" in render(report, model, converted)

    def test_a_fold_that_does_not_is_no_reason_to_worry(self) -> None:
        model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
        converted, report = reparamkit.apply(model, return_report=True)
        [found] = ranges(report, model, converted)
        assert found.growth == pytest.approx(1)
        assert not found.warns


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no browser could be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page()[0], encoding="utf-8")
    return path


class TestBrowser:
    def opened(self, browser: Any, file: Path, width: int, **options: Any) -> tuple[Any, list[str]]:
        seen = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
        said: list[str] = []
        seen.on("console", lambda message: said.append(message.text))
        seen.on("pageerror", lambda error: said.append(str(error)))
        seen.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        seen.goto(file.as_uri())
        return seen, said

    @pytest.mark.parametrize("width", [390, 1280])
    def test_it_opens_quietly_and_fits(self, browser: Any, file: Path, width: int) -> None:
        seen, said = self.opened(browser, file, width)
        assert said == []
        assert seen.evaluate("document.documentElement.scrollWidth") <= width
        before, after = (seen.locator(".diagram svg").nth(i).bounding_box() for i in (0, 1))
        assert before["width"] <= width
        assert before["x"] >= 0
        assert after["x"] + after["width"] <= width
        size = seen.locator(".diagram svg text").first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
        assert size >= 12

    def test_a_hostile_name_is_shown_as_text(self, browser: Any, file: Path) -> None:
        seen, said = self.opened(browser, file, 1280)
        assert seen.locator("h1").inner_text() == EVIL
        assert seen.locator("img").count() == 0
        assert EVIL in seen.locator("#merged").inner_text()
        assert said == []

    def test_tables_sort(self, browser: Any, file: Path) -> None:
        seen, _ = self.opened(browser, file, 1280)
        head = seen.locator("#merged th[data-sort=number]").first

        def values() -> list[float]:
            cells = seen.locator("#merged tbody tr td:nth-child(4)").all()
            return [float(cell.get_attribute("data-value")) for cell in cells]

        head.click()
        assert values() == sorted(values())
        assert head.get_attribute("aria-sort") == "ascending"
        head.focus()
        seen.keyboard.press("Enter")
        assert values() == sorted(values(), reverse=True)
        assert len(set(values())) > 1

    def test_it_reads_without_script(self, browser: Any, file: Path) -> None:
        seen, said = self.opened(browser, file, 1280, java_script_enabled=False)
        assert seen.locator("#merged tbody tr").count() == 3
        assert seen.locator(".diagram svg").first.is_visible()
        assert said == []

    def test_dark(self, browser: Any, file: Path) -> None:
        seen, _ = self.opened(browser, file, 1280, color_scheme="dark")
        paper = seen.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = seen.locator(".diagram svg text").first.evaluate("e => getComputedStyle(e).fill")
        assert (paper, ink) == ("rgb(20, 24, 29)", "rgb(230, 234, 239)")


class TestCommand:
    def test_report(self, tmp_path: Path) -> None:
        pytest.importorskip("typer")
        from typer.testing import CliRunner

        from reparamkit.cli.app import app

        file = tmp_path / "r.html"
        arguments = ["report", "-m", "tests.blocks:RepVGGBlock", "-i", "1x8x12x12", "-o", str(file)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "whole model on the example input" in file.read_text(encoding="utf-8")
        again = CliRunner().invoke(app, arguments)
        assert again.exit_code == 2
        assert "RK912" in again.stderr


def test_notes_are_on_the_page_and_only_text() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with torch.no_grad():
        model[1].weight[1] = 0
    converted, report = reparamkit.apply(model, return_report=True)
    (note,) = report.notes
    assert f"<li>{note}</li>" in render(report, model, converted)
    page = render(replace(report, notes=(EVIL,)), model, converted)
    assert EVIL not in page
    assert "&lt;img" in page
    assert 'id="notes"' not in render(replace(report, notes=()), model, converted)
