"""A recipe that says what `auto` found in a model: a start to edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from reparamkit.edits.edit import Rewrite
from reparamkit.output import checked_target, write_text
from reparamkit.paths import module_at, within
from reparamkit.pipeline import apply, plan
from reparamkit.plan import Plan
from reparamkit.planned import Planned
from reparamkit.recipe.model import recipe_schema
from reparamkit.recipe.pattern import original_class

SCHEMA_FILE = "reparamkit.schema.json"
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = nn.modules.batchnorm._BatchNorm
_READ = ("core/conv", "core/linear", "core/no_op")  # a recipe need not name the rules that only read a layer


def draft(model: nn.Module, name: str = "mine") -> str:
    """YAML of a recipe that merges in `model` what `auto` does.

    Args:
        model: in eval mode; not changed.
        name: of the recipe.

    Returns:
        One block for each class whose forward is merged, with the rules used and what is left of it; one more for
        the merges elsewhere.

    Raises:
        ModelError: the model cannot be converted as it is.
    """
    made = plan(model)
    rewritten = sorted(made.rewrites)
    blocks = _of_classes(made, rewritten, apply(model, verify=False)) if rewritten else []
    elsewhere = [p for p in made.edits if not within(p.edit.path, rewritten)]
    if elsewhere or not blocks:
        blocks.append({"match": {"structure": "any"}, **_rules(elsewhere), "optional": True})
    head = "# Drafted from a model by `reparamkit recipes init`.\n"
    data = {"version": 1, "name": name, "blocks": blocks, "policy": "cheaper"}
    return head + str(yaml.safe_dump(data, sort_keys=False, width=120))


def write_draft(path: Path, text: str, *, force: bool) -> Path:
    """Write a draft, and beside it the JSON Schema that its first line tells an editor to check it by.

    Args:
        path: the recipe's file, ending in .yaml.
        text: from `draft`.
        force: replace existing files.

    Returns:
        The schema's file.

    Raises:
        OutputError: RK912 when a file exists that would change, or cannot be written.
    """
    schema, known = path.parent / SCHEMA_FILE, json.dumps(recipe_schema(), indent=2) + "\n"
    checked_target(path, force=force, suffix=".yaml")
    if not schema.is_file() or schema.read_text(encoding="utf-8") != known:
        write_text(schema, known, force=force)
    write_text(path, f"# yaml-language-server: $schema=./{SCHEMA_FILE}\n{text}", force=force, suffix=".yaml")
    return schema


def _of_classes(made: Plan, rewritten: list[str], converted: nn.Module) -> list[dict[str, Any]]:
    by_class: dict[str, list[str]] = {}
    for path in rewritten:
        by_class.setdefault(_full_name(made.survey.modules[path]), []).append(path)
    return [_block(cls, paths, made, converted) for cls, paths in sorted(by_class.items())]


def _block(cls: str, paths: list[str], made: Plan, converted: nn.Module) -> dict[str, Any]:
    inside = [p for p in made.edits if within(p.edit.path, paths)]
    names = sorted({p.name for p in inside if isinstance(p.edit, Rewrite)}, key=len)
    cls_paths = [p for p, m in made.survey.modules.items() if _full_name(m) == cls]
    convs, norms = _left(converted, cls_paths)
    return {
        "match": {"class": cls},
        **_rules(inside),
        "into": names[0],
        "expect": {"convs": convs, "batch_norms": norms},
    }


def _rules(edits: list[Planned]) -> dict[str, list[str]]:
    used = {rule for planned in edits for rule in planned.edit.candidate.term.rules}
    rules = sorted(rule.removeprefix("core/") for rule in used.difference(_READ))
    return {"rules": rules} if rules else {}


def _left(converted: nn.Module, paths: list[str]) -> tuple[int, int]:
    """Convolutions and batch norms left in any one of these modules, at most."""
    convs = norms = 0
    for path in paths:
        module = module_at(converted, path)  # one inside another block may have gone with it
        inside = [] if module is None else list(module.modules())
        convs = max(convs, sum(isinstance(m, _CONVS) for m in inside))
        norms = max(norms, sum(isinstance(m, _NORMS) for m in inside))
    return convs, norms


def _full_name(module: nn.Module) -> str:
    cls = original_class(module)
    return f"{cls.__module__}.{cls.__qualname__}"
