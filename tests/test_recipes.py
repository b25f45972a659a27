"""Shipped recipes, where recipes are found, and the schema beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from pydantic import ValidationError

import reparamkit
from reparamkit.errors import RecipeError
from reparamkit.recipe import (
    Block,
    Match,
    Recipe,
    VerifySpec,
    load_recipe,
    recipe_schema,
    shipped_recipes,
)
from reparamkit.recipe.file import read_text
from reparamkit.rules import CORE

FOLDER = Path(reparamkit.__file__).parent.parent / "recipes"
NAMES = [
    "acnet",
    "auto",
    "dbb",
    "fastvit",
    "fold_bn",
    "mobileone",
    "repghost",
    "repvgg",
    "repvit",
    "unireplknet",
    "yolo",
]
CORE_RULES = {rule.rule for rule in CORE}
MINIMAL = "version: 1\nname: mine\nblocks:\n  - match: {class: Block}\n"


def test_every_recipe_of_the_first_release_is_shipped() -> None:
    assert set(NAMES) <= set(shipped_recipes())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
class TestEachShippedRecipe:
    def test_loads_under_its_own_name(self, name: str) -> None:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert load_recipe(f"{name}.yaml") == recipe

    def test_says_where_it_comes_from(self, name: str) -> None:
        recipe = load_recipe(name)
        assert recipe.source is not None
        assert recipe.source.startswith("https://")
        assert recipe.description

    def test_points_editors_at_the_schema(self, name: str) -> None:
        first = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=./schema.json"

    def test_names_only_rules_that_exist(self, name: str) -> None:
        for block in load_recipe(name).blocks:
            for rule in block.rule_ids() or ():
                assert any(fnmatchcase(known, rule) for known in CORE_RULES), rule

    def test_does_not_insist_on_any_one_block(self, name: str) -> None:
        assert all(block.optional for block in load_recipe(name).blocks)

    def test_catch_all_block_comes_last(self, name: str) -> None:
        structures = [block.match.structure for block in load_recipe(name).blocks]
        assert "any" not in structures[:-1]


@pytest.mark.parametrize(
    ("name", "module", "qualname", "into"),
    [
        ("repvgg", "timm.models.byobnet", "RepVggBlock", "reparam_conv"),
        ("repvgg", "repvgg", "RepVGGBlock", "rbr_reparam"),
        ("repvgg", "mm.backbones", "QARepVGGBlockV2", "rbr_reparam"),
        ("mobileone", "timm.models.byobnet", "MobileOneBlock", "reparam_conv"),
        ("mobileone", "mobileone", "MobileOneBlock", "reparam_conv"),
        ("fastvit", "timm.models.fastvit", "RepMixer", "reparam_conv"),
        ("fastvit", "timm.models.fastvit", "RepConditionalPosEnc", "reparam_conv"),
        ("fastvit", "models.fastvit", "RepCPE", "reparam_conv"),
        ("fastvit", "timm.models.fastvit", "ReparamLargeKernelConv", "reparam_conv"),
        ("fastvit", "models.modules.replknet", "ReparamLargeKernelConv", "lkb_reparam"),
        ("fastvit", "timm.models.fastvit", "MobileOneBlock", "reparam_conv"),
        ("repvit", "timm.models.repvit", "RepVggDw", None),
        ("repghost", "timm.models.repghost", "RepGhostModule", None),
        ("acnet", "acnet.acb", "ACBlock", "fused_conv"),
        ("dbb", "diversebranchblock", "DiverseBranchBlock", "dbb_reparam"),
        ("unireplknet", "unireplknet", "DilatedReparamBlock", "lk_origin"),
        ("yolo", "ultralytics.nn.modules.conv", "RepConv", "conv"),
        ("yolo", "models.common", "RepConvN", "conv"),
        ("yolo", "models.common", "RepConv", "rbr_reparam"),
        ("yolo", "ultralytics.nn.modules.block", "RepVGGDW", "conv"),
    ],
)
def test_first_matching_block_names_the_upstream_attribute(
    name: str, module: str, qualname: str, into: str | None
) -> None:
    cls = type(qualname, (), {"__module__": module})
    found = [block for block in load_recipe(name).blocks if block.match.matches("x", cls())]
    assert found, "no block matches"
    assert found[0].match.structure is None
    assert found[0].into == into


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("timm.models.byobnet", ["RepVggBlock", "MobileOneBlock"]),
        (
            "timm.models.fastvit",
            ["RepMixer", "RepConditionalPosEnc", "ReparamLargeKernelConv", "MobileOneBlock"],
        ),
        ("timm.models.repvit", ["RepVggDw", "ConvNorm", "NormLinear"]),
        ("timm.models.repghost", ["RepGhostModule"]),
    ],
)
def test_class_names_still_exist_upstream(module: str, names: list[str]) -> None:
    upstream = pytest.importorskip(module)
    assert [name for name in names if not hasattr(upstream, name)] == []


def test_schema_beside_the_recipes_is_fresh() -> None:
    stored = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    command = "python -m reparamkit.recipe > recipes/schema.json"
    assert stored == recipe_schema(), f"recipes/schema.json is stale, run: {command}"


def test_schema_command_prints_the_schema() -> None:
    command = [sys.executable, "-m", "reparamkit.recipe"]
    root = FOLDER.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout) == recipe_schema()


def test_schema_keeps_to_what_editors_know() -> None:
    # yaml-language-server follows draft 7; these words came later or were renamed.
    text = json.dumps(recipe_schema())
    late = ["prefixItems", "unevaluated", "$dynamicRef", "dependentSchemas", "dependentRequired"]
    assert [word for word in late if word in text] == []
    match = recipe_schema()["$defs"]["Match"]
    assert set(match["properties"]) == {"class", "name", "structure"}
    assert match["additionalProperties"] is False


def test_recipes_are_found_inside_the_package_as_a_wheel_lays_them(tmp_path: Path) -> None:
    package = tmp_path / "reparamkit"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(reparamkit.__file__).parent, package, ignore=ignore)
    (package / "recipes").mkdir(exist_ok=True)
    (package / "recipes" / "only.yaml").write_text(MINIMAL, encoding="utf-8")
    code = (
        "from reparamkit.recipe import load_recipe, shipped_recipes\n"
        "print('only' in shipped_recipes(), load_recipe('only').name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == ["True", "mine"]


def test_none_is_auto() -> None:
    assert load_recipe(None) == load_recipe("auto")
    assert load_recipe(None).blocks == (Block.model_validate({"match": {"structure": "any"}, "optional": True}),)


def test_same_recipe_from_text_path_name_and_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    from_mapping = load_recipe(read_text(MINIMAL, "x").data)
    assert from_mapping.blocks[0].match.class_ == "Block"
    for spec in (MINIMAL, file, str(file), "mine.yml", from_mapping):
        assert load_recipe(spec) == from_mapping
    assert load_recipe("mine", folders=[tmp_path]) == from_mapping


def test_defaults() -> None:
    recipe = load_recipe(MINIMAL)
    assert recipe.policy == "cheaper"
    assert recipe.verify == VerifySpec(enabled=True, dtype="float64", rtol=1e-9)
    assert recipe.expand == ()
    assert recipe.disable == ()
    assert recipe.blocks[0].optional is False
    assert recipe.blocks[0].rule_ids() is None


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_equal_recipes_have_one_hash(name: str) -> None:
    one, other = load_recipe(name), load_recipe(name).model_copy(deep=True)
    assert one == other
    assert len({one, other, one.model_copy(update={"name": "x"})}) == 2


def test_existing_file_wins_over_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repvgg.yaml").write_text(MINIMAL, encoding="utf-8")
    (tmp_path / "acnet").mkdir()
    (tmp_path / "dbb").write_text("a note", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("repvgg.yaml").name == "mine"
    assert load_recipe("repvgg").name == "repvgg"
    assert load_recipe("acnet").name == "acnet"
    assert load_recipe("dbb").name == "dbb"


def test_short_rule_ids_are_core_rules() -> None:
    recipe = load_recipe(
        "version: 1\nname: x\ndisable: [pooling, hello/*]\n"
        "blocks: [{match: {name: a}, rules: [conv_bn, core/*, hello/scale]}]\n"
    )
    assert recipe.blocks[0].rule_ids() == ("core/conv_bn", "core/*", "hello/scale")
    assert recipe.disabled_ids() == ("core/pooling", "hello/*")


def test_models_are_frozen_and_take_python_names() -> None:
    block = Block(match=Match(class_="A"), rules=("conv",))
    assert block == Block.model_validate({"match": {"class": "A"}, "rules": ["conv"]})
    with pytest.raises(ValidationError, match="frozen"):
        block.into = "x"
    with pytest.raises(ValidationError, match="got neither"):
        Recipe(version=1, name="x")


class TestNotFound:
    def test_lists_what_there_is_and_the_closest(self) -> None:
        with pytest.raises(RecipeError, match="did you mean 'repvgg'") as caught:
            load_recipe("repvg")
        assert caught.value.code == "RK705"
        assert "shipped recipes: acnet, auto, dbb" in str(caught.value)

    def test_lists_what_there_is_when_nothing_is_close(self) -> None:
        with pytest.raises(RecipeError, match=r"there is no recipe '1234' \(known: acnet, auto"):
            load_recipe("1234")

    @pytest.mark.parametrize("spec", ["", ".", "..", "no/such.yaml", "a\0b.yaml", "\ud800", "x" * 9999])
    def test_odd_names(self, spec: str) -> None:
        with pytest.raises(RecipeError, match="RK705") as caught:
            load_recipe(spec)
        assert len(str(caught.value)) < 600
        str(caught.value).encode()

    def test_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"RK705.*No such file"):
            load_recipe(tmp_path / "gone.yaml")

    @pytest.mark.parametrize("spec", [3, b"auto", ["auto"], object()])
    def test_wrong_kind_of_argument(self, spec: object) -> None:
        with pytest.raises(RecipeError, match=r"RK704.*expected a name, a path, text or a mapping"):
            load_recipe(spec)  # type: ignore[arg-type]


class TestFoldersOfPlugins:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> list[Path]:
        found = []
        for plugin in ("reparamkit_hello", "reparamkit_other"):
            folder = tmp_path / plugin / "recipes"
            folder.mkdir(parents=True)
            for name in ("both", plugin.removeprefix("reparamkit_")):
                text = MINIMAL.replace("mine", f"{name}-of-{plugin}")
                (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
            (folder / "repvgg.yaml").write_text(MINIMAL, encoding="utf-8")
            (folder.parent / "outside.yaml").write_text(MINIMAL, encoding="utf-8")
            found.append(folder)
        return found

    def test_bare_name(self, folders: list[Path]) -> None:
        assert load_recipe("hello", folders=folders).name == "hello-of-reparamkit_hello"

    def test_plugin_and_name(self, folders: list[Path]) -> None:
        for spec in ("other:both", "reparamkit-other:both.yaml"):
            assert load_recipe(spec, folders=folders).name == "both-of-reparamkit_other"

    def test_two_plugins_with_one_name(self, folders: list[Path]) -> None:
        with pytest.raises(RecipeError, match="'both' is the name of several recipes") as caught:
            load_recipe("both", folders=folders)
        assert caught.value.code == "RK705"
        assert all(str(folder) in str(caught.value) for folder in folders)

    def test_shipped_recipe_is_not_replaced(self, folders: list[Path]) -> None:
        assert load_recipe("repvgg", folders=folders).name == "repvgg"
        assert load_recipe("hello:repvgg", folders=folders).name == "mine"

    @pytest.mark.parametrize("spec", ["third:both", "hello:../outside", "../outside", "hello:", "hello:none"])
    def test_unknown(self, folders: list[Path], spec: str) -> None:
        with pytest.raises(RecipeError, match="RK705"):
            load_recipe(spec, folders=folders)


class TestWhatCountsAsAFile:
    def test_suffix(self, tmp_path: Path) -> None:
        file = tmp_path / "recipe.txt"
        file.write_text(MINIMAL, encoding="utf-8")
        for spec in (file, str(file)):
            with pytest.raises(RecipeError, match=r"RK708.*recipe\.txt: a recipe file ends in"):
                load_recipe(spec)

    def test_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder.yaml").mkdir()
        with pytest.raises(RecipeError, match=r"RK708.*folder\.yaml: not a regular file"):
            load_recipe(str(tmp_path / "folder.yaml"))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.yaml")
        with pytest.raises(RecipeError, match=r"RK708.*not a regular file"):
            load_recipe(tmp_path / "pipe.yaml")

    def test_too_large(self, tmp_path: Path) -> None:
        file = tmp_path / "large.yaml"
        file.write_bytes(b"#" * (1 << 20) + b"\n")
        with pytest.raises(RecipeError, match=r"RK708.*large\.yaml: larger than 1048576 bytes"):
            load_recipe(file)
        with pytest.raises(RecipeError, match=r"RK708.*larger than 1048576 characters"):
            load_recipe(file.read_text(encoding="utf-8"))

    def test_not_utf8(self, tmp_path: Path) -> None:
        file = tmp_path / "latin.yaml"
        file.write_bytes(b"name: \xe9\n")
        with pytest.raises(RecipeError, match=r"RK701.*latin\.yaml: not UTF-8 text \(byte 6\)"):
            load_recipe(file)

    def test_byte_order_mark_is_skipped(self, tmp_path: Path) -> None:
        file = tmp_path / "windows.yaml"
        file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
        assert load_recipe(file) == load_recipe(MINIMAL)
        file.write_bytes(b"\xef\xbb\xbfvers: 1\n")
        with pytest.raises(RecipeError) as caught:
            load_recipe(file)
        assert f"{file}:1:1: unknown key 'vers'" in str(caught.value)
        assert str(caught.value).endswith("   1 | vers: 1\n     | ^")
