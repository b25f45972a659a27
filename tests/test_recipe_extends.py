"""`extends`: what may be reached, how recipes are merged, and what an error gives away."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparamkit.errors import RecipeError
from reparamkit.recipe import Recipe, load_recipe

SECRET = "the-secret-of-another-file"


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"version: 1\nname: {file.stem}\n{text}", encoding="utf-8")
    return file


def block(name: str) -> str:
    return f"blocks: [match: {{class: {name}}}]\n"


def error_of(file: Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    return caught.value


def test_shipped_recipe() -> None:
    child = load_recipe("version: 1\nname: child\nextends: repvgg\ndisable: [pooling]\n")
    parent = load_recipe("repvgg")
    assert child.name == "child"
    assert child.blocks == parent.blocks
    assert child.source == parent.source
    assert child.disable == ("pooling",)
    assert child.extends is None
    assert load_recipe({"version": 1, "name": "child", "extends": "repvgg.yaml"}).blocks == parent.blocks


def test_recipe_object_is_completed() -> None:
    recipe = Recipe(version=1, name="child", extends="repvgg", policy="always")
    complete = load_recipe(recipe)
    assert complete.blocks == load_recipe("repvgg").blocks
    assert complete.policy == "always"
    assert load_recipe(complete) is complete


def test_merging(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base/old.yaml",
        "source: old\ndescription: old\npolicy: always\ndisable: [a, b]\n"
        "verify: {rtol: 1e-6, enabled: false}\nexpand: [{match: {name: old}, branches: [[conv, bn]]}]\n" + block("Old"),
    )
    write(tmp_path, "base/middle.yaml", "extends: old.yaml\nsource: middle\n" + block("Middle"))
    child = write(
        tmp_path,
        "child.yaml",
        "extends: base/middle.yaml\ndescription: ~\ndisable: [c, a]\nverify: {rtol: 1e-8}\n"
        "expand: [{match: {name: new}, branches: [[conv, bn]]}]\n" + block("New"),
    )
    recipe = load_recipe(child)
    assert [one.match.class_ for one in recipe.blocks] == ["New", "Middle", "Old"]
    assert recipe.name == "child"
    assert recipe.source == "middle"
    assert recipe.description is None  # said, and so it wins
    assert recipe.policy == "always"
    assert recipe.disable == ("c", "a", "b")
    assert recipe.verify.rtol == 1e-8
    assert recipe.verify.enabled is False
    assert [one.match.name for one in recipe.expand] == ["new", "old"]


def test_own_file_comes_before_a_shipped_name_with_suffix(tmp_path: Path) -> None:
    write(tmp_path, "repvgg.yaml", block("Mine"))
    with_suffix = load_recipe(write(tmp_path, "a.yaml", "extends: repvgg.yaml\n"))
    without = load_recipe(write(tmp_path, "b.yaml", "extends: repvgg\n"))
    assert [one.match.class_ for one in with_suffix.blocks] == ["Mine"]
    assert without.blocks == load_recipe("repvgg").blocks


@pytest.mark.parametrize(
    "name",
    [
        "../outside.yaml",
        "sub/../../outside.yaml",
        "/etc/passwd",
        "C:/outside.yaml",
        "sub\\outside.yaml",
        "https://example.org/a.yaml",
        "file:///etc/a.yaml",
        "plugin:auto",
        '"a\\0.yaml"',
    ],
)
def test_nothing_but_the_own_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, "outside.yaml", block("Outside"))
    child = write(tmp_path, "own/child.yaml", f"extends: {name}\n")
    (tmp_path / "own/sub").mkdir()
    error = error_of(child)
    assert error.code == "RK708"
    expected = "child.yaml:3:10: expected a shipped recipe or a file below this recipe's folder"
    assert expected in str(error)


def test_links_are_followed_before_the_folder_is_compared(tmp_path: Path) -> None:
    outside = write(tmp_path, "outside/a.yaml", block("Outside"))
    inside = write(tmp_path, "own/inside.yaml", block("Inside"))
    (tmp_path / "own/out.yaml").symlink_to(outside)
    (tmp_path / "own/folder").symlink_to(outside.parent)
    (tmp_path / "own/in.yaml").symlink_to(inside)
    (tmp_path / "own/loop.yaml").symlink_to(tmp_path / "own/loop.yaml")
    for name in ("out.yaml", "folder/a.yaml"):
        error = error_of(write(tmp_path, "own/child.yaml", f"extends: {name}\n"))
        assert error.code == "RK708"
        assert f"child.yaml:3:10: '{name}' leads out of this recipe's folder" in str(error)
    recipe = load_recipe(write(tmp_path, "own/child.yaml", "extends: in.yaml\n"))
    assert recipe.blocks[0].match.class_ == "Inside"
    assert error_of(write(tmp_path, "own/child.yaml", "extends: loop.yaml\n")).code == "RK705"


def test_text_and_mappings_reach_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "near.yaml", block("Near"))
    monkeypatch.chdir(tmp_path)
    text = "version: 1\nname: x\nextends: near.yaml\n"
    for spec in (text, {"version": 1, "name": "x", "extends": "near.yaml"}):
        with pytest.raises(RecipeError, match=r"RK705.*there is no recipe 'near.yaml' to extend"):
            load_recipe(spec)


def test_unknown_recipe(tmp_path: Path) -> None:
    error = error_of(write(tmp_path, "child.yaml", "extends: repvg\n"))
    assert error.code == "RK705"
    expected = "child.yaml:3:10: there is no recipe 'repvg' to extend (did you mean 'repvgg'?)\n"
    assert expected in str(error)
    assert str(error).endswith("   3 | extends: repvg\n     |          ^")


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_cycle(tmp_path: Path, names: list[str]) -> None:
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        write(tmp_path, f"{name}.yaml", f"extends: {parent}.yaml\n")
    error = error_of(tmp_path / "a.yaml")
    assert error.code == "RK708"
    assert "a.yaml:3:10: " in str(error)
    assert "comes back to where it started" in str(error)


def test_depth(tmp_path: Path) -> None:
    write(tmp_path, "r0.yaml", block("Root"))
    for number in range(1, 10):
        write(tmp_path, f"r{number}.yaml", f"extends: r{number - 1}.yaml\n")
    assert load_recipe(tmp_path / "r8.yaml").blocks[0].match.class_ == "Root"
    error = error_of(tmp_path / "r9.yaml")
    assert error.code == "RK708"
    assert "r9.yaml:3:10: more than 8 recipes in one chain" in str(error)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{SECRET}: 1\n{block('A')}", "RK702"),
        (f"policy: [{SECRET}]\n{block('A')}", "RK704"),
        (f"policy: {{{SECRET}\n", "RK701"),
        (f"source: !{SECRET} 1\n{block('A')}", "RK708"),
        (f"extends: {SECRET}\n", "RK705"),
        (f"extends: ../{SECRET}\n", "RK708"),
        (f"{SECRET}\n", "RK701"),
    ],
)
def test_text_of_the_other_file_is_not_quoted(tmp_path: Path, text: str, code: str) -> None:
    write(tmp_path, "other.yaml", text)
    error = error_of(write(tmp_path, "child.yaml", "extends: other.yaml\n"))
    assert error.code == code
    assert f"child.yaml:3:10: 'other.yaml' cannot be extended ({code} " in str(error)
    assert "load it alone" in str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert SECRET in str(error_of(tmp_path / "other.yaml"))


@pytest.mark.parametrize(("name", "code"), [("note.txt", "RK705"), ("folder.yaml", "RK708")])
def test_other_kinds_of_file(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "note.txt").write_text("x", encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    assert error_of(write(tmp_path, "child.yaml", f"extends: {name}\n")).code == code
