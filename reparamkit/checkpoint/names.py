"""Keys as the upstream deploy checkpoint has them, where they differ from ours; a recipe's `deploy_names` says how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from reparamkit.errors import CheckpointError


def upstream_names(keys: Iterable[str], templates: Mapping[str, str]) -> dict[str, str]:
    """Our key -> upstream's key.

    Args:
        keys: of a converted model.
        templates: our form -> upstream's, as in ``{"*.c.*": "*.*"}``; each star stands for the same text in both,
            the first one for as much as it can. Of several templates that fit, the first counts.

    Returns:
        A name for each key, in order; one that no template fits keeps its own.

    Raises:
        CheckpointError: RK913 when two keys would get one name.
    """
    patterns = [(_pattern(ours), theirs) for ours, theirs in templates.items()]
    named = {key: _named(key, patterns) for key in keys}
    seen: dict[str, str] = {}
    for key, name in named.items():
        if name in seen:
            raise CheckpointError("RK913", f"deploy_names calls both {seen[name]} and {key} {name}")
        seen[name] = key
    return named


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part) for part in template.split("*")), re.DOTALL)


def _named(key: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, theirs in patterns:
        found = pattern.fullmatch(key)
        if found is not None:
            first, *rest = theirs.split("*")
            return first + "".join(text + part for text, part in zip(found.groups(), rest, strict=True))
    return key
