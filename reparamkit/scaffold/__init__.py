"""Write a plugin that can be installed and whose tests pass: a start to edit.

The files beside this one are what it consists of; ``$$name`` and ``$$package`` stand for the plugin's names.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from reparamkit.errors import OutputError, PluginError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{package}/__init__.py": "__init__.py.txt",
    "{package}/layer.py": "layer.py.txt",
    "{package}/py.typed": "",
    "tests/test_rule.py": "test_rule.py.txt",
}


def new_plugin(name: str, parent: Path) -> Path:
    """Write the plugin ``reparamkit-NAME`` into a folder of its own.

    Args:
        name: lower-case words with dashes; the plugin's id, and the first half of the ids of its rules.
        parent: where the folder goes.

    Returns:
        The folder.

    Raises:
        PluginError: RK805 when it is no name for a plugin.
        OutputError: RK912 when the folder exists or cannot be written.
    """
    if not _NAME.fullmatch(name) or name == "core":
        raise PluginError("RK805", f"{name!r}; expected lower-case words with dashes, as in 'my-layers'")
    package = f"reparamkit_{name.replace('-', '_')}"
    folder = parent / f"reparamkit-{name}"
    if folder.exists():
        raise OutputError("RK912", f"{folder} exists")
    try:
        for target, template in _FILES.items():
            path = folder / target.format(package=package)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_text(template, name, package), encoding="utf-8")
    except OSError as error:
        raise OutputError("RK912", f"{folder}: {error}") from error
    return folder


def _text(template: str, name: str, package: str) -> str:
    if not template:
        return ""
    text = (files("reparamkit.scaffold") / template).read_text(encoding="utf-8")
    return Template(text).substitute(name=name, package=package)
