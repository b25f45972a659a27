"""What users may rely on, and which way imports point."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import reparamkit

PACKAGE = Path(reparamkit.__file__).parent
PUBLIC = [
    "Bench",
    "Block",
    "BranchOp",
    "CheckpointError",
    "Conv",
    "ConvTranspose",
    "Expansion",
    "ExportError",
    "Lift",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Plan",
    "PluginError",
    "Policy",
    "Recipe",
    "RecipeError",
    "Refusal",
    "ReparamError",
    "Report",
    "Rewritten",
    "Scale",
    "Split",
    "Stencil",
    "Sum",
    "Through",
    "Transform",
    "VerificationError",
    "__version__",
    "apply",
    "bench",
    "conv",
    "convert_state_dict",
    "expand",
    "export_onnx",
    "export_program",
    "hookimpl",
    "lifts",
    "load",
    "load_recipe",
    "load_weights",
    "measured",
    "plan",
    "save",
    "stencil",
    "upstream_state_dict",
    "verify",
]


def test_public_names() -> None:
    assert reparamkit.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert set(PUBLIC) <= set(dir(reparamkit))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(reparamkit, name)
    assert not isinstance(value, ModuleType)
    assert name == "__version__" or value.__doc__


def test_type_checkers_and_python_see_the_same_names() -> None:
    """`_HOME` serves Python, the imports under TYPE_CHECKING serve type checkers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [guarded] = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {
        alias.name: (node.module or "").removeprefix("reparamkit.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == reparamkit._HOME
    assert {*seen, "__version__"} == set(PUBLIC)


def described() -> str:
    """Every public function and class with its signature, and the public members of classes."""
    lines = []
    for name in PUBLIC:
        value = getattr(reparamkit, name)
        if name in ("__version__", "hookimpl"):  # the latter is pluggy's
            continue
        if not isinstance(value, type):
            lines.append(f"{name}{inspect.signature(value)}")
            continue
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        # A recipe's fields are its JSON Schema, which has a test of its own; the others of these nobody makes by hand.
        made = name in ("Recipe", "Plan", "Report", "Bench") or issubclass(value, Exception)
        signature = "" if made else inspect.signature(value)
        lines.append(f"class {name}({bases}){signature}")
        members = () if name == "Recipe" else vars(value).items()
        for member, found in sorted(members):
            if not member.startswith("_") and (inspect.isfunction(found) or isinstance(found, property)):
                lines.append(f"    {member}{inspect.signature(found) if inspect.isfunction(found) else ''}")
    return "\n".join(lines).replace(str(reparamkit), "reparamkit") + "\n"


def test_signatures_are_the_promised_ones() -> None:
    promised = (Path(__file__).parent / "public_api.txt").read_text(encoding="utf-8")
    assert described() == promised, "if it is meant: python -m tests.test_public_api > tests/public_api.txt"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = reparamkit.no_such_name  # type: ignore[attr-defined]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return done.stdout.strip()


def test_import_costs_neither_torch_nor_a_plugin() -> None:
    assert run("import sys, reparamkit; print('torch' in sys.modules, 'reparamkit.loading' in sys.modules)") == (
        "False False"
    )


def test_using_the_names_loads_no_plugin() -> None:
    code = (
        "import importlib.metadata as metadata\n"
        "asked, real = [], metadata.entry_points\n"
        "metadata.entry_points = lambda **groups: asked.append(groups) or real(**groups)\n"
        "import reparamkit\n"
        "names = [getattr(reparamkit, name) for name in reparamkit.__all__]\n"
        "print('reparamkit' in str(asked), len(names))"
    )
    assert run(code) == f"False {len(PUBLIC)}"


def test_importing_a_module_does_not_hide_the_function_of_its_name() -> None:
    code = "import reparamkit.plan, reparamkit.verify; print(reparamkit.plan.__name__, reparamkit.verify.__name__)"
    assert run(code) == "plan verify"


def imports(file: Path) -> Iterator[str]:
    """Modules that `file` imports, those for type checkers included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ALGEBRA = [*sorted((PACKAGE / "operators").glob("*.py")), PACKAGE / "merge.py"]


@pytest.mark.parametrize("file", ALGEBRA, ids=lambda f: f.name)
def test_the_algebra_knows_no_graph_and_no_module(file: Path) -> None:
    for name in imports(file):
        assert not name.startswith("torch.fx"), name
        assert not name.startswith("torch.nn") or name.startswith("torch.nn.functional"), name
    source = ast.parse(file.read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    assert not [name for name in used if name.startswith("torch.fx")]
    assert not [name for name in used if name.startswith("torch.nn") and not name.startswith("torch.nn.functional")]


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda f: f.name)
def test_the_library_knows_no_command_line(file: Path) -> None:
    if file.name != "__main__.py":
        assert not [name for name in imports(file) if name.startswith(("reparamkit.cli", "typer", "rich"))]


if __name__ == "__main__":
    print(described(), end="")
