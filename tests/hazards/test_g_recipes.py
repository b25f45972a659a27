"""Hazards of recipes: what is misspelt, read otherwise, or written for another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import reparamkit
from reparamkit import load_recipe
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import raises
from tests.helpers import branches, convert, counts, inputs, randomize, unchanged

HEAD = "version: 1\nname: x\n"
BLOCK = "blocks:\n  - match: {class: '*Block'}\n"


def refused(text: Any, code: str, at: str, *words: str) -> None:
    """A recipe is an error with this code (the first of several), at this place of it; the model is untouched."""
    model = randomize(seq(Block(), same()))
    with unchanged(model), raises(code, at, *words):
        reparamkit.apply(model, text, inplace=True)


@hazard("G1", "a key is misspelt", "error with line, column and the closest key", "RK702")
@pytest.mark.parametrize(
    ("text", "place", "meant"),
    [
        (f"{HEAD}{BLOCK}policyy: cheaper\n", ":5:1", "policy"),
        (f"{HEAD}blocks:\n  - match: {{class: '*'}}\n    mach: 1\n", ":5:5", "match"),
        (f"{HEAD}blocks:\n  - match: {{clas: '*'}}\n", ":4:13", "class"),
        (f"{HEAD}{BLOCK}    optionl: true\n", ":5:5", "optional"),
        (f"{HEAD}{BLOCK}    expect: {{conv: 1}}\n", ":5:14", "convs"),
        (f"{HEAD}{BLOCK}verify: {{dtyp: float64}}\n", ":5:10", "dtype"),
    ],
)
def test_g01_a_misspelt_key(text: str, place: str, meant: str) -> None:
    refused(text, "RK702", place, f"did you mean '{meant}'?")


@hazard("G2", "a key is given twice", "error with both lines", "RK703")
def test_g02_a_key_twice() -> None:
    refused(f"{HEAD}{BLOCK}policy: cheaper\npolicy: always\n", "RK703", ":6:1", "line 5")


@hazard("G3", "YAML 1.1 reads no, on, 010 and 1:30 as something else", "YAML 1.2: as written")
@pytest.mark.parametrize("word", ["no", "on", "off", "yes", "y", "010", "1:30", "2026-01-01", "1_000"])
def test_g03_words_stay_words(word: str) -> None:
    recipe = load_recipe(f"version: 1\nname: x\nblocks:\n  - match: {{name: '*'}}\n    into: r{word[:1]}\n")
    assert recipe.blocks[0].into == f"r{word[:1]}"
    text = f"version: 1\nname: {word}\nblocks:\n  - match: {{name: '*'}}\n"
    assert load_recipe(text).name == word


@hazard("G4", "a block matches nothing", "error, unless it is optional", "RK706")
def test_g04_a_block_that_matches_nothing() -> None:
    missing = "  - match: {class: '*Nowhere'}\n"
    refused(f"{HEAD}{BLOCK}{missing}", "RK706", "block 1", "*Nowhere")
    model = randomize(seq(Block(), same()))
    converted = reparamkit.apply(model, f"{HEAD}{BLOCK}{missing}    optional: true\n")
    assert counts(converted) == (2, 0)


@hazard("G6", "upstream renames a class", "the recipe matches nothing, which is an error", "RK706")
def test_g06_a_class_that_was_renamed() -> None:
    renamed = type("RepVGGBlockV2", (Block,), {})
    model = randomize(seq(renamed()))
    with unchanged(model), raises("RK706", "block 0", "RepVGGBlock"):
        reparamkit.apply(model, f"{HEAD}blocks:\n  - match: {{class: '*.RepVGGBlock'}}\n", inplace=True)


@hazard("G7", "another class has the same name", "a pattern may name the module as well, and no base class counts")
def test_g07_two_classes_of_one_name() -> None:
    theirs = type("Block", (Block,), {"__module__": "somebody.elses"})
    model = randomize(seq(Block(), theirs()))
    mine = f"{HEAD}blocks:\n  - match: {{class: 'tests.hazards.models.Block'}}\n"
    assert counts(reparamkit.apply(model, mine)) == (1 + 2, 3)
    both = f"{HEAD}blocks:\n  - match: {{class: '*Block'}}\n"
    assert counts(reparamkit.apply(model, both)) == (2, 0)


@hazard("G8", "extends goes in a circle, or too deep", "error", "RK708")
def test_g08_extends_without_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"{HEAD}extends: {other}.yaml\n{BLOCK}", encoding="utf-8")
    refused(tmp_path / "a.yaml", "RK708", str(tmp_path / "a.yaml"))
    for depth in range(20):
        more = f"extends: d{depth + 1}.yaml\n" if depth < 19 else ""
        (tmp_path / f"d{depth}.yaml").write_text(f"{HEAD}{more}{BLOCK}", encoding="utf-8")
    refused(tmp_path / "d0.yaml", "RK708", str(tmp_path / "d0.yaml"))


@hazard(
    "G15", "upstream's deploy names are wrong", "names that clash are an error; weights load strictly", "RK913", "RK911"
)
def test_g15_names_of_the_upstream_checkpoint(tmp_path: Path) -> None:
    recipe = {
        "version": 1,
        "name": "x",
        "blocks": [{"match": {"class": "*Block"}, "into": "merged"}],
        "deploy_names": {"*.merged.*": "*.conv.*"},
    }
    deploy = reparamkit.apply(randomize(seq(Block(), Block())), recipe)
    named = reparamkit.upstream_state_dict(deploy, recipe)
    twin = seq(*[nn.Sequential() for _ in range(2)])
    for part in twin:
        part.add_module("conv", same())
    twin.load_state_dict(named, strict=True)
    assert all(map(lambda a, b: a is b or bool((a == b).all()), named.values(), twin.state_dict().values()))
    with raises("RK913", "0.merged.weight"):
        reparamkit.upstream_state_dict(deploy, {**recipe, "deploy_names": {"*.merged.weight": "*.merged.bias"}})
    pytest.importorskip("safetensors")
    file = tmp_path / "deploy.safetensors"
    reparamkit.save(deploy, file)
    with raises("RK911", "1.weight"):
        reparamkit.load(randomize(seq(Block(), same())), file, recipe=recipe)


@hazard("G16", "a model is converted in part", "strict makes refusals errors; the command line ends with 4", "RK707")
def test_g16_strict() -> None:
    model = randomize(seq(Block(), branches(same(), same(padding_mode="reflect"))))
    _, report = convert(seq(Block(), branches(same(), same(padding_mode="reflect"))))
    assert [r.code for r in report.refused] == ["RK312"]
    with unchanged(model), raises("RK707", "1.add_1", "1 refusals", "RK312"):
        reparamkit.apply(model, strict=True, inplace=True)
    clean = randomize(seq(Block(), nn.ReLU(), same(), bn())).double()
    assert counts(reparamkit.apply(clean, strict=True, example_inputs=inputs((1, 4, 6, 6)))) == (2, 0)
