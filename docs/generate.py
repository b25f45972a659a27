"""Write the generated pages: ``python docs/generate.py``. A test fails when they are stale.

reference/errors.md   from the codes and reparamkit/catalogue.yaml
reference/recipe.md   from the JSON Schema of recipes
reference/cli.md      from the commands themselves
hazards.md            from the marks on the tests in tests/hazards
primitives.md         from docs/primitives.yaml
recipes/*.md          from recipes/, docs/recipes.yaml and docs/measured.json
coverage.md           from docs/measured.json
idea.md, ...          from docs/templates/ and docs/measured.json
figures/*.svg         from docs/measured.json and docs/figures.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import yaml
from figures import FIGURES
from hazard_table import page as hazards_page
from primitive_table import page as primitives_page

from reparamkit.catalogue import catalogue
from reparamkit.recipe import Recipe, load_recipe, recipe_schema, shipped_recipes

HEAD = "<!-- Written by docs/generate.py; do not edit. -->\n\n"
FAMILIES = {
    "1": "The model's life cycle",
    "2": "Normalisation",
    "3": "Graph, sharing and geometry",
    "5": "Numbers, dtype and device",
    "6": "Tracing and input types",
    "7": "Recipes",
    "8": "Plugins and rules",
    "9": "Verification, files and command line",
}
STYLE = (
    "<style>text{font:13px ui-monospace,monospace;fill:#1c2530;text-anchor:middle}"
    ".box{fill:#f3f5f8;stroke:#5c6875}.source{fill:none;stroke:#9aa5b1}.edge{fill:none;stroke:#5c6875;stroke-width:1.3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6eaef}.box{fill:#1d232a;stroke:#9aa5b1}.edge{stroke:#9aa5b1}}</style>"
)


def pages() -> Iterator[tuple[str, str]]:
    """Path below docs/ and text of everything that is generated."""
    measured = json.loads((DOCS / "measured.json").read_text(encoding="utf-8"))
    yield "reference/errors.md", errors()
    yield "reference/recipe.md", recipe_reference()
    yield "reference/cli.md", commands()
    yield "hazards.md", HEAD + hazards_page()
    yield "primitives.md", HEAD + primitives_page()
    words = yaml.safe_load((DOCS / "recipes.yaml").read_text(encoding="utf-8"))
    for name in shipped_recipes():
        yield f"recipes/{name}.md", recipe_page(name, words.get(name, {}), measured)
    yield "recipes/index.md", recipe_index()
    yield "coverage.md", coverage(measured)
    for template in sorted((DOCS / "templates").glob("*.md")):
        yield template.name, HEAD + filled(template.read_text(encoding="utf-8"), measured)
    for name, draw in FIGURES.items():
        yield f"figures/{name}.svg", draw()
    for name, drawn in measured["pictures"].items():
        for side, svg in zip(("before", "after"), drawn, strict=True):
            yield f"figures/{name}-{side}.svg", svg.replace("\n", STYLE + "\n", 1) + "\n"


def filled(text: str, measured: dict[str, Any]) -> str:
    """A template with the measured figures it names: ``{macs:repvgg_a0:before}``, ``{times}``."""
    rows = {row["model"].rpartition(":")[2]: row for found in measured["models"].values() for row in found}

    def figure(match: re.Match[str]) -> str:
        key, model, side = match.groups()
        value: int = rows[model][side][key]
        return f"{value:,d}" if key in ("convs", "norms") else f"{value / 1e6:.1f}"

    text = re.sub(r"\{(\w+):(\w+):(before|after)\}", figure, text)
    return text.replace("{times}", times(measured))


def errors() -> str:
    """The error catalogue."""
    lines = [HEAD, "# Error catalogue\n\n"]
    lines.append(
        "A *refusal* says why one merge was not made; everything else goes on. An *error* stops the call before\n"
        "anything was changed. Both carry a code. `reparamkit explain RK312` prints the same as this page.\n"
    )
    for digit, title in FAMILIES.items():
        lines.append(f"\n## {title}\n")
        for code, entry in catalogue().items():
            if code[2] == digit:
                lines.append(f"\n### {code}\n\n**{entry.title.capitalize()}.** {entry.means}\n\n{entry.do}\n")
    return "".join(lines)


def recipe_reference() -> str:
    """Every key of a recipe."""
    schema = recipe_schema()
    lines = [HEAD, "# Recipe reference\n\n"]
    lines.append(
        "A recipe is a YAML file of these keys. It is data: nothing in it is imported or run. For completion in an\n"
        "editor, begin it with `# yaml-language-server: $schema=PATH`; `reparamkit recipes schema > PATH` writes the\n"
        "file.\n"
    )
    lines += _keys("The recipe", schema)
    for name, part in sorted(schema.get("$defs", {}).items()):
        if "properties" in part:
            lines += _keys(name, part)
    return "".join(lines)


def _keys(title: str, part: dict[str, Any]) -> list[str]:
    about = part.get("description", "").strip()
    lines = [
        f"\n## {title}\n\n{about}\n\n" if about else f"\n## {title}\n\n",
        "| key | takes | default | |\n|---|---|---|---|\n",
    ]
    for key, value in part["properties"].items():
        default = "required" if key in part.get("required", ()) else _default(value)
        text = value.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(value)} | {default} | {text} |\n")
    return lines


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default is None or default in ([], {}) or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _kind(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(one) for one in value["anyOf"] if one.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}.get(
        value.get("type", ""), "mapping"
    )


def commands() -> str:
    """The commands and their options, from the command line's own declarations."""
    import typer.main

    from reparamkit.cli.app import app

    root = typer.main.get_command(app)
    lines = [HEAD, "# Command line\n\n"]
    lines.append(
        "`pip install 'reparamkit[cli]'`. Exit codes: 0 done, 1 verification failed, 2 wrong usage, recipe, model or\n"
        "file, 3 nothing matched or merged, 4 refusals under `--strict`. `NO_COLOR=1` switches colours off; `-q`\n"
        "prints errors and JSON only, `-v` says more. `reparamkit --install-completion` completes commands in your\n"
        "shell.\n"
    )
    for path, command in _commands(root, "reparamkit"):
        lines.append(f"\n## {path}\n\n{(command.help or '').strip()}\n\n")
        rows = [_option(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines.append("| option | |\n|---|---|\n" + "".join(rows))
    return "".join(lines)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")


def _option(parameter: Any) -> str:
    names = " ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {names} | {text}{' Required.' if parameter.required else ''} |\n"


def recipe_page(name: str, words: dict[str, str], measured: dict[str, Any]) -> str:
    """One recipe: anatomy, algebra, picture, measured counts, the file."""
    recipe = load_recipe(name)
    lines = [HEAD, f"# {name}\n\n{' '.join((recipe.description or '').split())}\n\n"]
    if recipe.source:
        lines.append(f"Source: <{recipe.source}>\n\n")
    lines += usage(recipe, measured["models"].get(name, [{"model": "MODEL"}])[0]["model"])
    if words:
        lines.append(f"\n## Anatomy\n\n{words['anatomy'].strip()}\n")
    if name in measured["pictures"]:
        lines.append(f"\n![before](../figures/{name}-before.svg)\n\nbecomes\n\n![after](../figures/{name}-after.svg)\n")
    if words:
        lines.append("\n## Algebra\n\n" + "".join(f"    {line}\n" for line in words["algebra"].strip().splitlines()))
    if name in measured["models"]:
        lines.append("\n## Measured\n\n" + table(measured["models"][name]))
    if recipe.deploy_names:
        lines.append(
            "\n## Upstream's names\n\nWith `reparamkit apply --upstream-names`, or `reparamkit.save(...,"
            " upstream_names=True)`, keys\nare written as the upstream deploy class has them:\n\n"
        )
        lines += [f"- `{ours}` becomes `{theirs}`\n" for ours, theirs in recipe.deploy_names.items()]
    text = shipped_recipes()[name].read_text(encoding="utf-8").strip()
    lines.append(f"\n## The file\n\n```yaml\n{text}\n```\n")
    return "".join(lines)


def usage(recipe: Recipe, spec: str) -> Iterator[str]:
    """How it is called; a recipe may be for one of the two halves only."""
    spec = spec if spec.partition(":")[0] in ("timm", "torchvision", "ultralytics") else "package.module:Class"
    if recipe.blocks:
        yield (
            f'In Python `reparamkit.apply(model, recipe="{recipe.name}")`, in a shell\n'
            f"`reparamkit apply --model {spec} --recipe {recipe.name} -o deploy.safetensors`.\n"
        )
    if recipe.blocks and recipe.expand:
        yield "\n"
    if recipe.expand:
        yield (
            f'For [training](../training.md) `train = reparamkit.expand(model, "{recipe.name}")` gives plain layers\n'
            "these branches, and `reparamkit.apply(train.eval())` takes them away.\n"
        )


def table(rows: list[dict[str, Any]]) -> str:
    """Models before and after."""
    heads = {"convs": "convolutions", "linears": "linear layers", "norms": "batch norms", "parameters": "parameters"}
    heads |= {"macs": "multiply-accumulates", "activations": "bytes of peak activations"}
    if all(row["before"]["linears"] == row["after"]["linears"] for row in rows):
        del heads["linears"]
    lines = [f"| model | input | {' | '.join(heads.values())} |\n", "|---" * (2 + len(heads)) + "|\n"]
    for row in rows:
        cells = [f"{amount(row['before'][key])} → {amount(row['after'][key])}" for key in heads]
        lines.append(f"| `{row['model'].rpartition(':')[2]}` | {row['input']} | " + " | ".join(cells) + " |\n")
    return "".join(lines)


def amount(number: int) -> str:
    """A count, large ones in millions."""
    return f"{number / 1e6:.2f} M" if number >= 100_000 else f"{number:,}"


def recipe_index() -> str:
    """All recipes."""
    lines = [HEAD, "# Recipes\n\n| recipe | for |\n|---|---|\n"]
    for name in shipped_recipes():
        lines.append(f"| [{name}]({name}.md) | {' '.join((load_recipe(name).description or '').split())} |\n")
    lines.append("\nTo write one of your own, see the [recipe reference](../reference/recipe.md).\n")
    return "".join(lines)


def coverage(measured: dict[str, Any]) -> str:
    """Everything that was measured."""
    lines = [HEAD, "# Coverage and benchmarks\n\n"]
    lines.append(
        "Counts of a model before and after `reparamkit.apply(model, recipe)`. They do not depend on the machine.\n"
        "`peak activations` is the memory of the layer outputs that live at the same time, for one input.\n"
    )
    for name, rows in measured["models"].items():
        lines.append(f"\n## [{name}](recipes/{name}.md)\n\n{table(rows)}")
    lines.append(f"\n## Time\n\n{times(measured)}")
    return "".join(lines)


def times(measured: dict[str, Any]) -> str:
    """Latency, with its spread."""
    cpu, version = (measured["times"][0]["environment"][key] for key in ("cpu", "torch"))
    lines = [
        f"One thread of a shared {cpu} CPU, batch 1, torch {version}. Both models are timed in turn, 15\n"
        "times; the ratio is the median, with its quartiles.\n\n",
        "| model | engine | before, ms | after, ms | times faster |\n|---|---|---|---|---|\n",
    ]
    for row in measured["times"]:
        for one in row["latency"]:
            ratio = f"{one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" if one["differs"] else "no difference"
            cells = (
                row["model"].rpartition(":")[2],
                one["engine"],
                f"{one['before'] * 1e3:.1f}",
                f"{one['after'] * 1e3:.1f}",
            )
            lines.append(f"| `{cells[0]}` | {' | '.join(cells[1:])} | {ratio} |\n")
    return "".join(lines)


def main() -> None:
    """Write all of them."""
    for path, text in pages():
        target = DOCS / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
